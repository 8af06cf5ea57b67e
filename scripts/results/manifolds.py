"""True latents behind planted labels: a contrastive embedding, t-SNE, UMAP, a plain VAE and principal components.

Simulated counts of 100 units, 5000 bins without an order in time; labels are continuous, discrete or mixed. What is
reported is the R2 of an affine map from the embedding to the two true latents, fitted on the first 80 % of the bins and
scored on the last 15 %; the bins between are for early stopping. t-SNE and UMAP see square-rooted counts of all
bins, those of the test included: t-SNE has no other way, and it is to their advantage. To that of the contrastive
embeddings, they alone see the labels (of training bins); and on a sphere the affine map has three coordinates, of a
surface of two dimensions, against two of all others, so the embedding in the plane is judged as well.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import numpy as np
import torch
from _family import row
from torch import Tensor, nn

from lvmzoo.data.trials import Session
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.latent_r2 import LatentR2
from lvmzoo.simulate.manifolds import LABELS, manifolds
from lvmzoo.store import compose
from lvmzoo.train import train

SEEDS, BINS = 5, 5000
PARTS = ("train", "validation", "test")
COMMON = [
    "model=contrastive",
    "data.simulator=manifolds",
    "data.bin_width_s=0.1",
    "data.split={validation: 0.05, test: 0.15, gap_s: 0.0}",
    "model.positives=behavior",
    "model.receptive_field_bins=1",
    "trainer.max_steps=1000",
    "trainer.batch_size=512",
    "trainer.validate_every_steps=50",
    "trainer.patience=4",
    "trainer.threads=1",
    "trainer.progress=false",
]
EMBEDDINGS = {
    "contrastive on a sphere": ["model.latents=3", "model.temperature=0.3", "model.delta=0.2"],
    "contrastive in the plane": ["model.latents=2", "model.similarity=euclidean", "model.delta=0.1"],
}


def run() -> list[dict[str, Any]]:
    """Return a line for each kind of labels and method."""
    rows = []
    for labels in LABELS:
        rows += table(labels, [one(labels, seed) for seed in range(SEEDS)])
    return rows


def table(labels: str, found: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return lines of one kind of labels from the R2 of every method, a dict a seed."""
    rows = []
    rivals = max(statistics.fmean(each[name] for each in found) for name in ("t-SNE", "UMAP", "plain VAE"))
    for method in found[0]:
        values = [each[method] for each in found]
        mean, judged = statistics.fmean(values), method in EMBEDDINGS
        seen = "labels seen in training" if judged else "no labels seen"
        coordinates = 3 if method == "contrastive on a sphere" else 2
        how = f"{coordinates} coordinates, {seen}"
        source = f"simulated label manifolds, 100 units, {BINS} bins, {len(found)} seeds; {how}"
        bound = f"> {rivals:.3f}, the best of t-SNE, UMAP and VAE" if judged else "beside it"
        claim, spread = f"true latents recovered, {labels} labels: {method} (R2)", round(statistics.stdev(values), 3)
        rows.append(row(claim, source, bound, round(mean, 3), spread, not judged or mean > rivals))
    return rows


def one(labels: str, seed: int) -> dict[str, float]:
    """Return the R2 of every method on one recording."""
    recording = manifolds(seed, labels, BINS)
    found, session = {}, None
    for method, settings in EMBEDDINGS.items():
        made = train(compose([*COMMON, *settings, f"seed={seed}"]), [recording], write=False)
        assert made.sessions is not None
        session = made.sessions[0]
        found[method] = recovered(Evaluation(made.model, session, seed))
    assert session is not None
    for method, embedding in peers(session, seed).items():
        found[method] = recovered(Evaluation(None, session, seed, {"latents": embedding}))
    return found


def recovered(evaluation: Evaluation) -> float:
    """Return the R2 of the true latents from an embedding on test bins."""
    return next(score.value for score in LatentR2()(evaluation) if score.metric == "latent_r2")


def peers(session: Session, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the embeddings of the other methods, by part."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        counts = {p: getattr(session, p).activity[torch.from_numpy(getattr(session, p).flat)].double() for p in PARTS}
        cuts = np.cumsum([len(counts[part]) for part in PARTS])[:-1]
        everything = np.sqrt(torch.cat(list(counts.values())).numpy())
        embedded = {
            "t-SNE": TSNE(2, random_state=seed).fit_transform(everything),
            "UMAP": UMAP(n_components=2, random_state=seed).fit_transform(everything),
            "principal components": PCA(2, random_state=seed).fit_transform(everything),
            "plain VAE": vae(counts["train"].float(), torch.cat(list(counts.values())).float(), seed),
        }
    return {
        method: dict(zip(PARTS, np.split(np.asarray(points, dtype=np.float64), cuts), strict=True))
        for method, points in embedded.items()
    }


class VAE(nn.Module):
    """Two latents, networks of two layers, Poisson counts (Kingma & Welling 2014, arXiv:1312.6114)."""

    def __init__(self, units: int, hidden: int = 64) -> None:
        super().__init__()

        def network(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
            )

        self.encoder, self.decoder = network(units, 4), network(2, units)

    def bound(self, counts: Tensor) -> Tensor:
        """Return minus the evidence lower bound, in nats a bin."""
        mean, spread = self.encoder(counts.sqrt()).chunk(2, 1)
        latents = mean + torch.randn_like(mean) * (spread / 2).exp()
        log_rates = self.decoder(latents)
        expected = (log_rates.exp() - counts * log_rates).sum(1)
        return (expected + 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1)).mean()


def vae(train_counts: Tensor, counts: Tensor, seed: int, steps: int = 1500) -> np.ndarray:
    """Return the posterior means of a VAE fitted to the training bins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VAE(counts.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            model.bound(train_counts[torch.randint(len(train_counts), (256,))]).backward()
            optimizer.step()
        with torch.no_grad():
            return model.encoder(counts.sqrt())[:, :2].numpy()


if __name__ == "__main__":
    for line in run():
        print(line["claim"], line["measured"], line["spread"], "" if line["ok"] else "MISSED", flush=True)
