"""Contrastive embedding: bins that belong together in time or behavior are mapped to nearby latents.

An encoder ``f`` turns the activity around a bin into latents so that a reference ``r`` resembles its positive ``p``
more than the other bins ``n`` of the recording:

    minimize mean_i[ -phi(f(r_i), f(p_i)) + log sum_j exp phi(f(r_i), f(n_j)) ]

with ``phi`` the cosine or minus the squared distance, over a temperature. What a positive is:

- ``positives=time``: the bin ``time_offset_bins`` later in the same trial.
- ``positives=behavior``: a bin of the same categories whose continuous and circular labels are nearest to the
  reference's label after a change that labels make over ``time_offset_bins`` bins somewhere in the session (the
  distribution that CEBRA calls ``time_delta``), or, with ``delta``, after Gaussian noise (``delta``). With categories
  alone it is any bin of the same categories.
- ``positives=hybrid``: one of each, in two losses of equal weight. With ``behavior_latents`` each shapes latents of its
  own, on one shared body; without, both shape all. Bins without a label serve the loss of time.

Sessions have an input layer each and share the rest. A behavior positive may lie in any of them, negatives lie in all:
equal labels come to lie together whatever units were recorded.

Schneider, Lee & Mathis (2023), Learnable latent embeddings for joint behavioural and neural analysis, Nature 617,
360-368, doi:10.1038/s41586-023-06031-6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from lvmzoo.batch import Batch, Layout, PairSampling
from lvmzoo.inference.attribution import Attribution, attribute, jacobian_penalty, jacobians, phased_in
from lvmzoo.models.base import Adapts, Attributes, Filters, GradientModel, Loss
from lvmzoo.models.behavior.contrastive_config import ContrastiveConfig, pair_sampling
from lvmzoo.parts.bins_in_view import BinsInView, nothing_yet
from lvmzoo.parts.encoders import OffsetEncoder, encode, input_layer
from lvmzoo.parts.info_nce import InfoNCE, gather
from lvmzoo.parts.session_inputs import SessionInput, SessionInputs
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["Contrastive", "ContrastiveConfig"]

_PENALIZED = 256  # windows of a step whose Jacobian is penalized
_ATTRIBUTED = 128  # windows whose Jacobians are in memory together
_BINS_AT_ONCE = 65_536  # bins that ``latents`` embeds at a time, so that long sessions need little memory


class Contrastive(GradientModel, Filters, Adapts, Attributes):
    """Embed activity so that moments close in time or behavior lie together (contrastive learning)."""

    adjustable = frozenset(
        {"positives", "behavior", "behavior_weights", "time_offset_bins", "delta", "balanced"}
        | {"jacobian_penalty", "jacobian_warmup_steps"}
    )

    def __init__(self, config: ContrastiveConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self._sampling = pair_sampling(config, layouts)
        self.lag_bins = self._sampling.after - 1
        self.attributes_reliably = config.jacobian_penalty > 0
        hidden, field_bins, resample = config.hidden, config.receptive_field_bins, config.resample
        encoder = OffsetEncoder(len(layouts[0].held_in), hidden, config.latents, field_bins, resample)
        layers = [input_layer(len(each.held_in), hidden, field_bins, resample) for each in layouts[1:]]
        layers.insert(0, encoder.first)
        self.inputs = SessionInputs(
            {each.session: SessionInput(each, layer) for each, layer in zip(layouts, layers, strict=True)}
        )
        self.body = encoder.body
        self.criterion = InfoNCE(config.similarity, config.temperature, config.minimum_temperature)

    @property
    def sampling(self) -> PairSampling:
        """Windows, positives and negatives as the configuration asks for."""
        return self._sampling

    @property
    def parts(self) -> dict[str, slice]:
        """The latents that the positives of each kind shape."""
        first = self.config.behavior_latents
        if first is None:
            return {kind: slice(None) for kind in self._sampling.kinds}
        return {"time": slice(first, None), "behavior": slice(first)}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find mean and standard deviation of each unit, by which its activity is standardized."""
        for session in self.inputs:
            self.inputs.of(session).prepare(batch for batch in batches if batch.layout.session == session)

    def loss(self, batch: Batch, step: int) -> Loss:
        """Return InfoNCE, in nats, as alignment and uniformity of each kind of positive.

        In training, negatives are gathered over processes; held-out draws are whole on each of them.
        """
        together = (batch, *batch.others)
        vectors = torch.cat([self._embed(*_bins_first(each), each.layout.session)[0] for each in together])
        vectors = self._normalize(vectors)
        valid = torch.cat([each.valid.all(1) for each in together])
        complete = bool(valid.all())
        terms = {}
        weight = vectors.new_zeros(())
        for kind, shaped in self.parts.items():
            reference, positive, negative = batch.pairs[kind]
            if not complete:
                keep = valid[reference] & valid[positive]
                reference, positive, negative = reference[keep], positive[keep], negative[valid[negative]]
            if not len(reference) or not len(negative):
                terms[f"{kind}_align"] = terms[f"{kind}_uniform"] = 0 * vectors.sum()
                continue
            weight = weight.new_tensor(float(len(reference)))
            latents = vectors[:, shaped]
            drawn = latents[negative]
            terms[f"{kind}_align"], terms[f"{kind}_uniform"] = self.criterion(
                latents[reference], latents[positive], gather(drawn) if self.training else drawn
            )
        if self.config.jacobian_penalty > 0:
            share = self.config.jacobian_penalty * phased_in(step, self.config.jacobian_warmup_steps)
            wanted = share > 0 and bool(weight > 0)
            terms["jacobian"] = share * self._jacobian_penalty(together) if wanted else 0 * vectors.sum()
        return Loss(terms, weight)

    def _jacobian_penalty(self, together: Sequence[Batch]) -> Float[Tensor, ""]:
        """Return the penalty on windows of all sessions: estimated in training, exact where it is validated."""
        found = []
        with torch.inference_mode(False), torch.enable_grad():  # validation has neither
            for each in together:
                own = self.inputs.of(each.layout.session)
                some = slice(None, None, -(-len(together) * each.n_trials // _PENALIZED))
                activity, observed = (values[:, some] for values in _bins_first(each))
                windows = own.standardize(activity, observed).clone().requires_grad_()
                found.append(jacobian_penalty(windows, self._embed_windows(own, windows), projected=self.training))
        return torch.stack(found).mean()

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the embedding of every bin; beyond a trial's first and last bin, that bin is repeated."""
        rows = _padded_rows(batch.valid, self._sampling.before, self._sampling.after)
        observed = batch.observed & batch.valid.unsqueeze(-1)
        trials = torch.arange(batch.n_trials, device=rows.device)
        result = self.body.last.bias.new_zeros(batch.n_bins, batch.n_trials, self.config.latents)
        chunk = max(1, _BINS_AT_ONCE // max(batch.n_trials, 1))
        for start in range(0, batch.n_bins, chunk):
            stop = min(start + chunk, batch.n_bins)
            cut = rows[:, start : stop + self._sampling.window_bins - 1].T
            result[start:stop] = self._embed(batch.activity[trials, cut], observed[trials, cut], batch.layout.session)
        return torch.where(batch.valid.unsqueeze(-1), self._normalize(result.transpose(0, 1)), 0)

    def own_layers(self, session: str) -> SessionInput:
        """Return the scaling of the units and the layer that they enter by."""
        return self.inputs.of(session)

    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the embedding of every bin, which looks no further than ``lag_bins`` ahead."""
        return self.latents(batch)

    def initial(self, session: str, trials: int) -> BinsInView:
        """Return the view of some trials of a session before their first bin."""
        own = self.inputs.of(session)
        return nothing_yet(session, own.mean, self._sampling.window_bins, trials, len(own.mean), self.lag_bins)

    @torch.no_grad()
    def step(self, state: BinsInView, bin: Batch) -> tuple[BinsInView, Float[Tensor, "trial latent"]]:
        """Return the view after one more bin, and the embedding of the bin ``lag_bins`` before it."""
        own = self.inputs.of(state.session)
        observed = bin.observed & bin.valid.unsqueeze(-1)
        newest = own.standardize(bin.activity.transpose(0, 1), observed.transpose(0, 1))
        state = state.after(newest, bin.valid[:, 0])
        return state, torch.where(state.valid[0].unsqueeze(-1), self._embed_windows(own, state.activity), 0)

    @torch.no_grad()
    def attribution(
        self, batch: Batch, readout: Float[Tensor, "latent code"] | None = None, windows: int = 1000
    ) -> Attribution:
        """Return how strongly each unit, standardized, carries each latent, or each code of a readout.

        It is reliable where the model was trained with ``model.jacobian_penalty``. Units that are held out hold zeros.
        """
        own = self.inputs.of(batch.layout.session)
        rows = _padded_rows(batch.valid, self._sampling.before, self._sampling.after)
        observed = batch.observed & batch.valid.unsqueeze(-1)
        trial, bin = batch.valid.nonzero(as_tuple=True)
        step = max(1, -(-len(trial) // windows))
        reach = torch.arange(self._sampling.window_bins, device=rows.device).unsqueeze(1)

        def parts() -> Iterator[Tensor]:
            for where, when in zip(trial[::step].split(_ATTRIBUTED), bin[::step].split(_ATTRIBUTED), strict=True):
                cut = rows[where, when + reach]
                inputs = own.standardize(batch.activity[where, cut], observed[where, cut])
                found = jacobians(lambda values: self._embed_windows(own, values), inputs)
                yield found if readout is None else torch.einsum("wlbu,lc->wcbu", found, readout.to(found))

        def placed(values: Tensor) -> Tensor:
            everywhere = values.new_zeros(batch.layout.n_units, values.shape[1])
            everywhere[own.units] = values
            return everywhere

        return Attribution(*(placed(values) for values in attribute(parts())))

    def _embed_windows(
        self, own: SessionInput, windows: Float[Tensor, "bin window unit"]
    ) -> Float[Tensor, "window latent"]:
        """Return the embedding of windows of one receptive field each, as the input layer sees them."""
        return self._normalize(encode(own.layer, self.body, windows, self.config.receptive_field_bins)[0])

    def _embed(
        self,
        activity: Num[Tensor, "bin window all_units"],
        observed: Bool[Tensor, "bin window all_units"],
        session: str,
    ) -> Float[Tensor, "shorter window latent"]:
        """Return the encoder's output of each receptive field."""
        own = self.inputs.of(session)
        return encode(own.layer, self.body, own.standardize(activity, observed), self.config.receptive_field_bins)

    def _normalize(self, latents: Float[Tensor, "*bin latent"]) -> Float[Tensor, "*bin latent"]:
        """Return the latents, those of each part on a sphere of their own if the similarity is a cosine."""
        first = self.config.behavior_latents
        if first is None:
            return self.criterion.normalize(latents)
        return torch.cat([self.criterion.normalize(part) for part in (latents[..., :first], latents[..., first:])], -1)


def _bins_first(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.activity.transpose(0, 1), batch.observed.transpose(0, 1)


def _padded_rows(valid: Bool[Tensor, "trial bin"], before: int, after: int) -> Int[Tensor, "trial padded"]:
    """Return the bins of each trial from ``before`` earlier to ``after - 1`` later, held at its first and last."""
    bins = valid.shape[1]
    rows = torch.arange(-before, bins + after - 1, device=valid.device)
    first = valid.int().argmax(1, keepdim=True)
    last = bins - 1 - valid.flip(1).int().argmax(1, keepdim=True)
    return torch.minimum(torch.maximum(rows, first), last).clamp(0, max(bins - 1, 0))


def _tiny(layout: Layout) -> ContrastiveConfig:
    return ContrastiveConfig(latents=2, hidden=8, receptive_field_bins=3, time_offset_bins=1)


register(
    Entry(
        model=Contrastive,
        config=ContrastiveConfig,
        family=Family.BEHAVIOR,
        reference=Reference(
            "Schneider, Lee & Mathis (2023). Learnable latent embeddings for joint behavioural and neural analysis. "
            "Nature 617, 360-368.",
            "10.1038/s41586-023-06031-6",
            "schneider2023cebra",
        ),
        tiny=_tiny,
        training=Training(max_steps=5000, batch_size=512, learning_rate=1e-3),
        window_bins=lambda config: config.receptive_field_bins,
    )
)
