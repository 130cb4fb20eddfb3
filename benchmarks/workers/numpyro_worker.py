"""NumPyro on jax's CPU backend, float32: `SVI` compiled as a whole, data in memory as bytes.

An epoch: a permutation and all steps of `SVI.update` as one compiled loop, or one compiled step
called from Python, under Trace_ELBO or TraceMeanField_ELBO: the fastest of these. IWAE is
RenyiELBO(alpha=0). log p(x) is vectorized over samples and compiled, in the fastest of several
portions of images and samples.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from common import IMAGE, Maker, Spec, fastest, first_weights, held_rows, serve, train_rows
from jax import Array, lax, random
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

Net = Callable[[Any, Array], Array]
Layers = list[tuple[Array, Array]]


def mlp(layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def mlp_weights(spec: Spec, net: str) -> Layers:
    weights = first_weights(spec)
    return [
        (jnp.array(weights[f"{net}.{k}.weight"].T), jnp.array(weights[f"{net}.{k}.bias"]))
        for k in range(len(spec.hidden) + 1)
    ]


def convolutions(layers: Layers, x: Array) -> Array:
    """Images halved by 4x4 kernels of stride 2, then one linear layer."""
    x = x.reshape(-1, *IMAGE[1:], IMAGE[0])
    for kernel, bias in layers[:-1]:
        x = lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias)
    return x.reshape(len(x), -1) @ layers[-1][0] + layers[-1][1]


def transposed(layers: Layers, z: Array) -> Array:
    """One linear layer, then images doubled by transposed 4x4 kernels of stride 2."""
    side = IMAGE[1] // 2 ** (len(layers) - 1)
    x = z.reshape(-1, z.shape[-1]) @ layers[0][0] + layers[0][1]
    x = x.reshape(len(x), side, side, -1)
    for kernel, bias in layers[1:]:
        x = lax.conv_transpose(jax.nn.relu(x), kernel, (2, 2), "SAME") + bias
    return x.reshape(*z.shape[:-1], -1)


def convolutional_weights(spec: Spec, net: str) -> Layers:
    channels = (IMAGE[0], *spec.channels)
    narrow = (IMAGE[1] // 2 ** len(spec.channels)) ** 2 * channels[-1]
    pairs = list(itertools.pairwise(channels))
    if net == "encoder":
        shapes = [(4, 4, *pair) for pair in pairs] + [(narrow, 2 * spec.latents)]
    else:
        shapes = [(spec.latents, narrow)] + [(4, 4, b, a) for a, b in reversed(pairs)]
    keys = random.split(random.key(len(net)), len(shapes))
    glorot = jax.nn.initializers.glorot_uniform()
    return [
        (glorot(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(keys, shapes, strict=True)
    ]


def nets(spec: Spec) -> tuple[tuple[Net, Layers], tuple[Net, Layers]]:
    """Encoder and decoder, each a function with its first weights."""
    if spec.channels:
        return (
            (convolutions, convolutional_weights(spec, "encoder")),
            (transposed, convolutional_weights(spec, "decoder")),
        )
    return (mlp, mlp_weights(spec, "encoder")), (mlp, mlp_weights(spec, "decoder"))


class Training:
    def __init__(self, loss: Callable[[Spec], Any], whole_epoch: bool, spec: Spec) -> None:
        self.spec = spec
        (self.encode, self.encoder), (self.decode, self.decoder) = nets(spec)
        optimizer = numpyro.optim.Adam(spec.rate)
        self.svi = SVI(self.model, self.guide, optimizer, loss(spec))
        self.data = jnp.array(train_rows(spec))
        first = self.data[: spec.batch].astype(jnp.float32)
        self.state = self.svi.init(random.key(0), first)
        self.key = random.key(1)
        self.epoch = jax.jit(self.epoch_inside, donate_argnums=0) if whole_epoch else self.by_step
        self.step = jax.jit(self.step_inside, donate_argnums=0)
        judge = _renyi(spec) if spec.iwae else TraceMeanField_ELBO()
        self.loss = jax.jit(lambda key, at, x: judge.loss(key, at, self.model, self.guide, x))
        self.order = jax.jit(partial(random.permutation, x=len(self.data)))

    def model(self, x: Array) -> None:
        layers = numpyro.param("decoder", self.decoder)
        with numpyro.plate("rows", len(x)):
            zero = jnp.zeros((len(x), self.spec.latents))
            z = numpyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            logits = self.decode(layers, z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Array) -> None:
        layers = numpyro.param("encoder", self.encoder)
        with numpyro.plate("rows", len(x)):
            mean, log_variance = jnp.split(self.encode(layers, x), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1))

    def step_inside(self, state: Any, data: Array, order: Array, k: Array) -> Any:
        rows = lax.dynamic_slice(order, (k * self.spec.batch,), (self.spec.batch,))
        return self.svi.update(state, data[rows].astype(jnp.float32))[0]

    def epoch_inside(self, state: Any, key: Array, data: Array) -> Any:
        order = random.permutation(key, len(data))
        steps = len(data) // self.spec.batch
        return lax.fori_loop(0, steps, lambda k, s: self.step_inside(s, data, order, k), state)

    def by_step(self, state: Any, key: Array, data: Array) -> Any:
        order = self.order(key)
        for k in range(len(data) // self.spec.batch):
            state = self.step(state, data, order, k)
        return state

    def run(self, units: int) -> None:
        for _ in range(units):
            self.key, key = random.split(self.key)
            self.state = self.epoch(self.state, key, self.data)
        jax.block_until_ready(self.state)

    def bound(self) -> float:
        held = jnp.array(held_rows(self.spec), jnp.float32)
        parameters = self.svi.get_params(self.state)
        parts = jnp.split(held, list(range(500, len(held), 500)))
        total = sum(self.loss(random.key(2 + k), parameters, x) for k, x in enumerate(parts))
        return -float(total) / len(held)


def _renyi(spec: Spec) -> RenyiELBO:
    return RenyiELBO(alpha=0, num_particles=spec.samples)


def train(spec: Spec) -> Training:
    losses: dict[str, Callable[[Spec], Any]] = {
        kind.__name__: lambda s, kind=kind: kind(num_particles=s.samples)
        for kind in (Trace_ELBO, TraceMeanField_ELBO)
    }
    makers: dict[str, Maker] = {
        f"{name}, {'compiled epoch' if whole else 'compiled step'}": partial(Training, loss, whole)
        for name, loss in ({"RenyiELBO": _renyi} if spec.iwae else losses).items()
        for whole in (True, False)
    }
    return fastest(makers)(spec)


class Evidence:
    def __init__(self, portion: Sequence[int], spec: Spec) -> None:
        self.spec, (self.images, self.draws) = spec, portion
        (self.encode, self.encoder), (self.decode, self.decoder) = nets(spec)
        self.held = jnp.array(held_rows(spec))
        self.function = jax.jit(self.inside)
        self.mean = 0.0

    def inside(self, x: Array, key: Array) -> Array:
        """log p(x) of some images (N, 784), (N,)."""
        x = x.astype(jnp.float32)
        mean, log_variance = jnp.split(self.encode(self.encoder, x), 2, axis=-1)
        q = dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1)
        prior = dist.Normal(jnp.zeros_like(mean), 1.0).to_event(1)

        def some(key: Array) -> Array:
            z = q.sample(key, (self.draws,))
            p = dist.Bernoulli(logits=self.decode(self.decoder, z)).to_event(1)
            log_w = p.log_prob(x) + prior.log_prob(z) - q.log_prob(z)
            return jax.nn.logsumexp(log_w, axis=0)

        parts = lax.map(some, random.split(key, self.spec.samples // self.draws))
        return jax.nn.logsumexp(parts, axis=0) - jnp.log(self.spec.samples)

    def run(self, units: int) -> None:
        values = [
            self.function(self.held[k : k + self.images], random.key(k))
            for k in range(0, units, self.images)
        ]
        self.mean = float(jnp.concatenate(values)[:units].mean())

    def bound(self) -> float:
        return self.mean


def evidence(spec: Spec) -> Evidence:
    portions = [(1, 5000), (1, 1000), (1, 500), (10, 100), (10, 500), (50, 100)]
    if spec.device == "cuda":
        portions += [(50, 500), (250, 100), (250, 500)]
    fitting = [p for p in portions if p[1] <= spec.samples] or [(1, spec.samples)]
    makers = {f"{n} images, {k} samples at once": partial(Evidence, (n, k)) for n, k in fitting}
    images = 250 if spec.device == "cuda" else 50
    return fastest(makers, units=images if spec.samples > 100 else 10)(spec)


if __name__ == "__main__":
    serve({"train": train, "evidence": evidence})
