"""pythae: its `VAE` or `IWAE` with "bce" under its `BaseTrainer`, and its `get_nll`.

An epoch: `BaseTrainer.train_step`, the training part of an epoch of `BaseTrainer.train`, with its
own DataLoader, callbacks and progress bar; what `train` does between epochs (a deep copy of the
best model, prints) is left out. The decoder ends in a sigmoid, as the library's loss wants it.
"""

import tempfile
from functools import partial

import numpy as np
import torch
from common import WIDTH, Spec, fastest, held_rows, serve, train_rows
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch_nets import nets, on_threads

NLL_BATCHES = (100, 500, 1000, 5000)


class Encoder(BaseEncoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.net(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


def build(spec: Spec) -> VAE:
    encoder, decoder = nets(spec)
    about = {"input_dim": (WIDTH,), "latent_dim": spec.latents, "reconstruction_loss": "bce"}
    parts = {"encoder": Encoder(encoder), "decoder": Decoder(decoder)}
    if spec.iwae:
        return IWAE(IWAEConfig(number_samples=spec.samples, **about), **parts)
    return VAE(VAEConfig(**about), **parts)


class Training:
    def __init__(self, spec: Spec) -> None:
        self.spec, self.epochs = spec, 0
        config = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            learning_rate=spec.rate,
            per_device_train_batch_size=spec.batch,
            no_cuda=True,
        )
        self.trainer = BaseTrainer(
            build(spec), train_dataset=_dataset(train_rows(spec)), training_config=config
        )
        self.trainer.prepare_training()

    def run(self, units: int) -> None:
        for _ in range(units):
            self.epochs += 1
            self.trainer.train_step(self.epochs)

    @torch.no_grad()
    def bound(self) -> float:
        model = self.trainer.model.eval()
        held = _dataset(held_rows(self.spec)).data
        return float(np.mean([-model({"data": x}).loss.item() for x in held.split(500)]))


class Evidence:
    def __init__(self, batch: int, spec: Spec) -> None:
        self.model, self.batch, self.samples = build(spec).eval(), batch, spec.samples
        self.held, self.mean = _dataset(held_rows(spec)).data, 0.0

    @torch.no_grad()
    def run(self, units: int) -> None:
        self.mean = float(self.model.get_nll(self.held[:units], self.samples, self.batch))

    def bound(self) -> float:
        return self.mean


def _dataset(rows: np.ndarray) -> BaseDataset:
    return BaseDataset(torch.from_numpy(rows).float(), torch.zeros(len(rows)))


def train(spec: Spec) -> Training:
    return fastest(on_threads({"BaseTrainer": Training}, spec.threads))(spec)


def evidence(spec: Spec) -> Evidence:
    batches = [b for b in NLL_BATCHES if b <= spec.samples]
    makers = {f"get_nll, batch_size {b}": partial(Evidence, b) for b in batches}
    return fastest(on_threads(makers, spec.threads), units=2)(spec)


if __name__ == "__main__":
    serve({"train": train, "evidence": evidence})
