"""Data sets known by name: where each comes from, how it is checked, and how it is read.

Each set is one entry of a table. Its files are looked for in the folder that AEVB_DATA names, then
in the user's cache folder, and are downloaded into the latter where they are in neither.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data.download import RemoteFile, find, obtain
from aevb.data.source import Source
from aevb.data.survey import extremes
from aevb.errors import DataError

Bytes = NDArray[np.uint8]


class _Content(NamedTuple):
    """What the files of a set hold: values (N, C, H, W), labels (N,), sizes of official splits."""

    values: Bytes
    labels: NDArray[np.int64] | None = None
    splits: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A data set known by name: its facts, its files, and how their paths are turned into arrays.

    Shapes: `rows` times `shape` (C, H, W). Units: `scale` and `binarize` as of `Source`; `files`
    has an entry for each file, with the forms in which it may be had, best first.
    Errors: DataError, of `present` and `where`, where AEVB_DATA names no folder.
    Example:
        >>> mnist = summary("mnist")
        >>> mnist.rows, mnist.shape, mnist.binarize
        (70000, (1, 28, 28), 'epoch')
    """

    name: str
    rows: int
    shape: tuple[int, int, int] = (1, 28, 28)
    likelihood: str
    reason: str
    scale: float = 1 / 255
    binarize: str = "none"
    citation: str
    license: str
    note: str = ""
    read: Callable[[Sequence[Path]], _Content]
    files: tuple[tuple[RemoteFile, ...], ...] = ()

    @property
    def present(self) -> bool:
        """Whether all files are on this machine; DataError where AEVB_DATA names no folder."""
        return all(find(*forms) for forms in self.files)

    @property
    def where(self) -> str:
        """In words, where the files are; DataError where AEVB_DATA names no folder."""
        if not self.files:
            return "comes with scikit-learn"
        found = [find(*forms) for forms in self.files]
        folders = sorted({str(path.parent) for _, path in filter(None, found)})
        return f"at {', '.join(folders)}" if all(found) else "not here"


def open_named(name: str) -> Source:
    """The data set of that name, found on this machine or downloaded.

    Shapes: `values` (N, C, H, W) bytes; splits are consecutive rows, training rows first.
    Errors: DataError for an unknown name, a damaged file, and a file that cannot be had.
    Example:
        >>> open_named("digits").shape
        (1, 8, 8)
    """
    known = summary(name)
    content = known.read([obtain(*forms, note=known.note) for forms in known.files])
    checksums = "".join(forms[0].sha256 for forms in known.files).encode()
    return Source(
        name=name,
        values=content.values,
        shape=known.shape,
        likelihood=known.likelihood,
        reason=known.reason,
        fingerprint=f"sha256:{hashlib.sha256(checksums or content.values.tobytes()).hexdigest()}",
        scale=known.scale,
        binarize=known.binarize,
        labels=content.labels,
        splits=_consecutive(content.splits) if content.splits else None,
        kind="image",
        extremes=extremes(content.values),
    )


def summary(name: str) -> NamedSet:
    """What is known of a data set without reading it; nothing is downloaded.

    Errors: DataError for an unknown name.
    Example:
        >>> summary("digits").where
        'comes with scikit-learn'
    """
    if name not in _TABLE:
        raise DataError(f"expected one of the data sets {', '.join(_TABLE)}, found {name!r}")
    return _TABLE[name]


def read_idx(path: Path) -> Bytes:
    """The bytes of a gzipped idx file, as MNIST has it.

    Shapes: as many axes as the fourth byte of the file says.
    Errors: DataError when the file is no gzip, no idx of bytes, or not as long as it says.
    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits": a big-endian header
    0, 0, 8 (for bytes), number of axes; then each size in four bytes; then the values, row-major.
    """
    content = _unpacked(path)
    axes = content[3] if content[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * axes
    if not axes or len(content) < start:
        raise DataError(
            f"{path}: expected an idx file of bytes, found one that begins with "
            f"{content[:4].hex(' ') or 'nothing'}; copy it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, offset=4))
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape):,} values as its header says, found "
            f"{len(content) - start:,}; copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_amat(path: Path) -> Bytes:
    """The 28x28 binary pictures of an .amat text, gzipped or not.

    Shapes: (N, 1, 28, 28), each line 784 digits 0 or 1 with one blank between, row-major.
    Errors: DataError when the length or a digit does not fit.
    """
    content = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    text = np.frombuffer(content, np.uint8)
    digits = text[::2] - np.uint8(ord("0"))  # a parser of text would take a minute
    if not len(text) or len(text) % (2 * 784) or digits.max() > 1:
        raise DataError(f"{path}: expected lines of 784 digits 0 or 1, found other text")
    return digits.reshape(-1, 1, 28, 28)


def _unpacked(path: Path) -> bytes:
    """The content of a gzip file."""
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is no undamaged gzip file ({error}); copy it again") from error


def _consecutive(sizes: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Row numbers of splits that follow one another."""
    bounds = pairwise(accumulate(sizes.values(), initial=0))
    return {name: np.arange(*bound) for name, bound in zip(sizes, bounds, strict=True)}


def _read_digits(paths: Sequence[Path]) -> _Content:
    # Imported by name: scikit-learn is slow to import and has no types to check.
    digits = import_module("sklearn.datasets").load_digits()
    return _Content(
        digits.images.astype(np.uint8).reshape(-1, 1, 8, 8), digits.target.astype(np.int64)
    )


def _read_mnist(paths: Sequence[Path]) -> _Content:
    train, train_labels, test, test_labels = map(read_idx, paths)
    return _Content(
        np.concatenate([train, test])[:, np.newaxis],
        np.concatenate([train_labels, test_labels]).astype(np.int64),
        {"train": len(train), "test": len(test)},
    )


def _read_binarized_mnist(paths: Sequence[Path]) -> _Content:
    parts = [read_amat(path) for path in paths]
    sizes = dict(zip(("train", "validation", "test"), map(len, parts), strict=True))
    return _Content(np.concatenate(parts), splits=sizes)


def _read_frey_face(paths: Sequence[Path]) -> _Content:
    # One column of `ff` is one face, row by row. Imported by name as above.
    faces: Bytes = import_module("scipy.io").loadmat(str(paths[0]))["ff"]
    return _Content(np.ascontiguousarray(faces.T).reshape(-1, 1, 28, 20))


def _read_omniglot(paths: Sequence[Path]) -> _Content:
    with np.load(paths[0], allow_pickle=False) as archive:
        parts = [archive["background"], archive["evaluation"]]
        labels = np.concatenate([archive["background_char"], archive["evaluation_char"]])
    sizes = {"train": len(parts[0]), "test": len(parts[1])}
    return _Content(np.concatenate(parts)[:, np.newaxis], labels.astype(np.int64), sizes)


def _files(
    folder: str, names: Sequence[str], facts: Sequence[tuple[int, str]], *mirrors: str
) -> tuple[tuple[RemoteFile], ...]:
    """Files of one form each, by name, size in bytes and SHA-256."""
    return tuple(
        (RemoteFile(f"{folder}/{name}", size, sha256, tuple(mirror + name for mirror in mirrors)),)
        for name, (size, sha256) in zip(names, facts, strict=True)
    )


_IDX = [
    f"{part}-ubyte.gz"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]
_AMAT = [f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")]

_GZIPPED = _files(
    "binarized_mnist",
    [f"{name}.gz" for name in _AMAT],
    (
        (2_197_797, "877c7951e875c52ab7801f4ff16aeecb7816ebd697658231efeb2b640f01a3d8"),
        (439_811, "aeb77ba9e35dc39d9e5034538273523e37ff578c97d723a59f7ee4345373abad"),
        (416_083, "b70dc82f02d6c858f598dbd879445709c2e5070d9a9749588b9c3800efa44af1"),
    ),
)
_PLAIN = _files(
    "binarized_mnist",
    _AMAT,
    (
        (78_400_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        (15_680_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        (15_680_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ),
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
)
_SETS = (
    NamedSet(
        name="digits",
        rows=1797,
        shape=(1, 8, 8),
        likelihood="gaussian",
        reason="grey levels from 0 to 16",
        scale=1 / 16,
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
        license="CC BY 4.0",
        read=_read_digits,
    ),
    NamedSet(
        name="mnist",
        rows=70_000,
        likelihood="bernoulli",
        reason="grey levels from 0 to 255 taken as probabilities of ink",
        binarize="epoch",
        citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document "
        "recognition, Proc. IEEE 1998",
        license="usually cited as CC BY-SA 3.0; copyright LeCun and Cortes",
        read=_read_mnist,
        files=_files(
            "mnist",
            _IDX,
            (
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    NamedSet(
        name="binarized-mnist",
        rows=70_000,
        likelihood="bernoulli",
        reason="every value is 0 or 1",
        scale=1.0,
        citation="Salakhutdinov and Murray, ICML 2008; split of Larochelle and Murray, AISTATS "
        "2011",
        license="as MNIST",
        read=_read_binarized_mnist,
        files=tuple(gz + plain for gz, plain in zip(_GZIPPED, _PLAIN, strict=True)),
    ),
    NamedSet(
        name="fashion-mnist",
        rows=70_000,
        likelihood="gaussian",
        reason="grey levels from 0 to 255, many strictly between black and white",
        citation="Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv:1708.07747",
        license="MIT",
        read=_read_mnist,
        files=_files(
            "fashion-mnist",
            _IDX,
            (
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    NamedSet(
        name="frey-face",
        rows=1965,
        shape=(1, 28, 20),
        likelihood="gaussian",
        reason="grey levels from 8 to 238 of 255, strictly inside (0, 1)",
        citation="Roweis and Saul, Science 2000; pictures by Brendan Frey",
        license="none stated (research use)",
        read=_read_frey_face,
        files=_files(
            "freyface",
            ["frey_rawface.mat"],
            [(1_100_584, "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64")],
            "https://cs.nyu.edu/~roweis/data/",
        ),
        note="consecutive frames of a video, so that a random split leaks",
    ),
    NamedSet(
        name="omniglot",
        rows=32_460,
        likelihood="bernoulli",
        reason="grey levels from 0 to 255 taken as probabilities of ink",
        binarize="epoch",
        citation="Lake, Salakhutdinov, Tenenbaum, Science 2015",
        license="MIT",
        read=_read_omniglot,
        files=_files(
            "omniglot",
            ["omniglot28_box_derived.npz"],
            [(3_012_185, "de720a25a0f956a9dea673461c167827c52c33bf4170db16da13e0b44d40f1b4")],
        ),
        note="made from the drawings of 105x105 by area averaging; published numbers on OMNIGLOT "
        "use another file, chardata.mat, and cannot be compared",
    ),
)
_TABLE: Mapping[str, NamedSet] = {known.name: known for known in _SETS}

NAMES: tuple[str, ...] = tuple(_TABLE)
