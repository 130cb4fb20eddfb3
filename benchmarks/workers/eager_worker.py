"""Plain PyTorch, eager, as most people write it: a DataLoader, torch.optim.Adam, float32.

An epoch: batches of a shuffling `DataLoader` over a `TensorDataset` of floats; the loss is the
binary cross-entropy with logits and the closed divergence (or minus the importance-weighted
bound), `backward`, `step`, and the running loss read with `.item()`.
"""

import math

import torch
from common import Spec, fastest, held_rows, serve, train_rows
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset
from torch_nets import nets, on_threads, reparameterize


class Training:
    def __init__(self, spec: Spec) -> None:
        torch.manual_seed(0)
        self.spec = spec
        self.device = torch.device(spec.device)
        self.encoder, self.decoder = (net.to(self.device) for net in nets(spec))
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=spec.rate)
        data = TensorDataset(torch.from_numpy(train_rows(spec)).float())
        self.loader = DataLoader(data, batch_size=spec.batch, shuffle=True)

    def run(self, units: int) -> None:
        for _ in range(units):
            total = 0.0
            for (x,) in self.loader:
                self.optimizer.zero_grad()
                loss = -self.bounds(x.to(self.device)).mean()
                loss.backward()
                self.optimizer.step()
                total += loss.item()

    def bounds(self, x: Tensor) -> Tensor:
        """The bound of each row, (N,) nats."""
        z, mean, log_variance = reparameterize(self.encoder(x), self.spec.samples)
        logits = self.decoder(z.flatten(0, 1)).view(*z.shape[:2], -1)
        targets = x.expand_as(logits)
        cross = binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
        if not self.spec.iwae:
            kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)
            return -cross.mean(0) - kl
        log_p = -0.5 * (z**2).sum(-1)
        log_q = -0.5 * (log_variance + (z - mean) ** 2 / log_variance.exp()).sum(-1)
        return torch.logsumexp(log_p - cross - log_q, 0) - math.log(len(z))

    @torch.no_grad()
    def bound(self) -> float:
        held = torch.from_numpy(held_rows(self.spec)).float().to(self.device)
        return torch.cat([self.bounds(x) for x in held.split(500)]).mean().item()


def train(spec: Spec) -> Training:
    return fastest(on_threads({"DataLoader": Training}, spec.threads))(spec)


if __name__ == "__main__":
    serve({"train": train})
