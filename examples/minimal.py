"""Auto-Encoding Variational Bayes (Kingma & Welling 2013) in one file: torch, and digits as data.

Equation numbers are those of the paper; M data in a minibatch, L draws for each, D latent
dimensions, X pixels. Nothing is imported from the library, and a test holds the two together.

    python examples/minimal.py
"""

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import softplus

D, X, HIDDEN = 10, 64, 200
M, L, EPOCHS, RATE = 100, 1, 60, 2e-3


class Encoder(nn.Module):
    """q(z | x) = N(z; mu, sigma^2 I), equation (9); mu and log sigma^2 from one tanh layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(X, HIDDEN)
        self.heads = nn.Linear(HIDDEN, 2 * D)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log sigma^2), each (M, D)."""
        mu, log_variance = self.heads(torch.tanh(self.hidden(x))).chunk(2, dim=-1)
        return mu, log_variance


class Decoder(nn.Module):
    """log p(x | z), appendix C.1: X Bernoulli pixels, their logits from a tanh layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(D, HIDDEN)
        self.head = nn.Linear(HIDDEN, X)

    def forward(self, z: Tensor) -> Tensor:
        """The logits, (L, M, X)."""
        logits: Tensor = self.head(torch.tanh(self.hidden(z)))
        return logits

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """sum_i x_i log y_i + (1 - x_i) log(1 - y_i), equation (11), (L, M) nats."""
        logits = self(z)
        return (x * logits - softplus(logits)).sum(-1)


def reparameterize(mu: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = g(noise, x) = mu + sigma * noise, section 2.4, (L, M, D)."""
    return mu + torch.exp(0.5 * log_variance) * noise


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) || p(z)) for p(z) = N(0, I), minus what appendix B integrates, (M,) nats."""
    return -0.5 * (1 + log_variance - mu**2 - torch.exp(log_variance)).sum(-1)


def bound(encoder: Encoder, decoder: Decoder, x: Tensor, noise: Tensor) -> Tensor:
    """Estimator B, equations (7) and (10): the lower bound of each datum, (M,) nats."""
    mu, log_variance = encoder(x)
    z = reparameterize(mu, log_variance, noise)
    return decoder.log_likelihood(x, z).mean(0) - divergence(mu, log_variance)


def log_normal(z: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mu, sigma^2 I), summed over the D dimensions."""
    square = (z - mu) ** 2 * torch.exp(-log_variance)
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)


def log_evidence(encoder: Encoder, decoder: Decoder, x: Tensor, noise: Tensor) -> Tensor:
    """log 1/L sum_l p(x, z_l) / q(z_l | x), by importance sampling (Burda et al. 2015), (M,)."""
    mu, log_variance = encoder(x)
    z = reparameterize(mu, log_variance, noise)
    nothing = torch.zeros_like(z)
    log_joint = decoder.log_likelihood(x, z) + log_normal(z, nothing, nothing)
    log_weights = log_joint - log_normal(z, mu, log_variance)
    return torch.logsumexp(log_weights, 0) - math.log(len(noise))


def train(encoder: Encoder, decoder: Decoder, data: Tensor, epochs: int, seed: int = 0) -> None:
    """Algorithm 1 with L = 1: minibatches, noise, gradient of the bound, until the epochs end."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(data), generator=draw).split(M):
            noise = torch.randn(L, len(rows), D, generator=draw)  # samples from p(noise)
            # Equation (8), divided by N: the mean over the minibatch stands for that of the data.
            mean = bound(encoder, decoder, data[rows], noise).mean()
            optimizer.zero_grad()
            (-mean).backward()
            optimizer.step()
            total += mean.item() * len(rows)
        if epoch in (1, 2, 5) or epoch % 10 == 0:
            print(f"epoch {epoch:3d}   training bound {total / len(data):8.2f} nats per datum")


def digits() -> tuple[Tensor, Tensor]:
    """Training and test rows of scikit-learn's digits, black or white, (1437, X) and (360, X)."""
    levels = torch.from_numpy(load_digits().data).float()  # 0 to 16
    binary = (levels > 8).float()[torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
    return binary[:1437], binary[1437:]


def main() -> None:
    """Train, then say how good the model is on rows that it has not seen."""
    torch.manual_seed(0)
    training, test = digits()
    encoder, decoder = Encoder(), Decoder()
    train(encoder, decoder, training, EPOCHS)
    noise = torch.randn(500, len(test), D)
    with torch.no_grad():
        lower = bound(encoder, decoder, test, noise)
        evidence = log_evidence(encoder, decoder, test, noise)
    for name, values in (("bound", lower), ("log p(x), at least", evidence)):
        error = values.std() / len(values) ** 0.5
        print(f"{len(values)} test rows   {name:<18}   {values.mean():7.2f} ± {error:.2f} nats")
    picture = torch.sigmoid(decoder(torch.randn(4, D))).detach().reshape(4, 8, 8) > 0.5
    for line in picture.unbind(1):
        print("   ".join("".join("##" if ink else " ." for ink in row) for row in line))


if __name__ == "__main__":
    main()
