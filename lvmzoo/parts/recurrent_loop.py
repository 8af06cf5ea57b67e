"""A controller and a generator that drive each other, as one loop with a hand-written backward pass.

In every bin, two GRUs (reset gate after the matrix product, as in torch) take turns (Sussillo et al. 2016,
doi:10.48550/arXiv.1608.06315):

    c_t = GRU_c(c_{t-1}, [code_t, F g_{t-1}]),  (mean_t, log_variance_t) = W c_t + b
    u_t = mean_t + exp(log_variance_t / 2) noise_t,  g_t = GRU_g(g_{t-1}, [u_t, external_t])

Trials are the last axis inside the loop, so that every gate of every bin is one stretch of memory. Each cell keeps four
slots, ``[n_hidden, r, z, n_input]``: its hidden weights feed the first three, its input weights the last three, each by
one matrix product. Going back, the gradients of weights are summed bin by bin while what they come from is still in
the cache: nothing but the slots is stored for all bins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["controlled_generator"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def controlled_generator(
    controller: nn.GRUCell,
    generator: nn.GRUCell,
    to_inputs: nn.Linear,
    factors: Float[Tensor, "latent generator"],
    codes: Float[Tensor, "bin trial code"],
    external: Float[Tensor, "bin trial external"],
    noise: Float[Tensor, "bin trial input"],
    start: tuple[Float[Tensor, "trial controller"], Float[Tensor, "trial generator"]],
) -> tuple[
    Float[Tensor, "bin trial generator"], Float[Tensor, "bin trial twice_input"], Float[Tensor, "bin trial input"]
]:
    """Run the loop over all bins.

    Parameters
    ----------
    controller : its input is the code, then the factors.
    generator : its input is the inferred inputs, then the external ones.
    to_inputs : from the controller to mean and log variance of the inferred inputs.
    factors : from the generator's state to the factors that the controller sees.
    codes, external : what enters controller and generator in each bin.
    noise : standard normal draws; zeros give the mean.
    start : states before the first bin.

    Returns
    -------
    The generator's states; means and log variances of the inferred inputs; the inferred inputs.
    """
    inputs = noise.shape[-1]
    known = external.shape[-1] > 0
    states, moments, drawn = _ControlledGenerator.apply(
        codes,
        functional.linear(external, generator.weight_ih[:, inputs:]).transpose(1, 2) if known else None,
        noise,
        *(state.t() for state in start),
        factors,
        controller.weight_ih,
        _hidden_rows(controller.weight_hh),
        _bias(controller).unsqueeze(1),
        to_inputs.weight,
        to_inputs.bias.unsqueeze(1),
        generator.weight_ih[:, :inputs],
        _hidden_rows(generator.weight_hh),
        _bias(generator).unsqueeze(1),
    )
    return states.transpose(1, 2), moments.transpose(1, 2), drawn.transpose(1, 2)


def _hidden_rows(weight: Float[Tensor, "gates hidden"]) -> Float[Tensor, "gates hidden"]:
    """Return the rows of torch's (r, z, n) in the order of the slots (n, r, z)."""
    reset_and_update, new = weight.split([len(weight) // 3 * 2, len(weight) // 3])
    return torch.cat([new, reset_and_update])


def _bias(cell: nn.GRUCell) -> Tensor:
    gates, new = cell.bias_hh.split([2 * cell.hidden_size, cell.hidden_size])
    return torch.cat([new, cell.bias_ih[: 2 * cell.hidden_size] + gates, cell.bias_ih[2 * cell.hidden_size :]])


class _ControlledGenerator(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        external: Tensor | None,  # its projections onto the generator's last three slots
        noise: Tensor,
        controller: Tensor,
        generator: Tensor,
        factors: Tensor,
        into_controller: Tensor,
        of_controller: Tensor,
        controller_bias: Tensor,  # of all slots
        to_inputs: Tensor,
        to_inputs_bias: Tensor,
        into_generator: Tensor,
        of_generator: Tensor,
        generator_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        bins, trials, inputs = noise.shape
        channels = codes.shape[2]
        noise = noise.transpose(1, 2).contiguous()
        seen = codes.new_empty(bins, channels + len(factors), trials)  # codes and factors
        seen[:, :channels] = codes.transpose(1, 2)
        slots_c, slots_g = (codes.new_empty(bins, 4 * len(state), trials) for state in (controller, generator))
        controllers, generators = (codes.new_empty(bins + 1, *state.shape) for state in (controller, generator))
        controllers[0], generators[0] = controller, generator
        moments = codes.new_empty(bins, 2 * inputs, trials)
        deviations, drawn = torch.empty_like(noise), torch.empty_like(noise)
        scratch = torch.empty_like(controllers[0]), torch.empty_like(generators[0])
        views = zip(
            seen.unbind(),
            seen[:, channels:].unbind(),
            _Slots.of(slots_c),
            _Slots.of(slots_g),
            controllers[:-1].unbind(),
            controllers[1:].unbind(),
            generators[:-1].unbind(),
            generators[1:].unbind(),
            moments.unbind(),
            moments[:, :inputs].unbind(),
            moments[:, inputs:].unbind(),
            deviations.unbind(),
            noise.unbind(),
            drawn.unbind(),
            external.unbind() if external is not None else [None] * bins,
            strict=True,
        )
        c, g = len(controller), len(generator)
        hidden_bias, bias_c = controller_bias[:c], controller_bias[c:]
        bias_g, new_bias = generator_bias[: 3 * g], generator_bias[3 * g :]
        for (
            sight,
            factor,
            slot_c,
            slot_g,
            from_c,
            to_c,
            from_g,
            to_g,
            moment,
            mean,
            log_variance,
            dev,
            eps,
            u,
            v,
        ) in views:
            torch.mm(factors, from_g, out=factor)
            torch.addmm(bias_c, into_controller, sight, out=slot_c.of_input)
            slot_c.hidden.copy_(hidden_bias)
            slot_c.of_state.addmm_(of_controller, from_c)
            slot_c.step(from_c, to_c, scratch[0])
            torch.addmm(to_inputs_bias, to_inputs, to_c, out=moment)
            torch.mul(log_variance, 0.5, out=dev).exp_()
            torch.addcmul(mean, dev, eps, out=u)
            torch.addmm(bias_g, of_generator, from_g, out=slot_g.of_state)
            slot_g.new.copy_(new_bias)
            slot_g.of_input.addmm_(into_generator, u)
            if v is not None:
                slot_g.of_input.add_(v)
            slot_g.step(from_g, to_g, scratch[1])
        weights = (factors, into_controller, of_controller, to_inputs, into_generator, of_generator)
        ctx.save_for_backward(seen, noise, slots_c, slots_g, controllers, generators, deviations, drawn, *weights)
        ctx.known = external is not None
        return generators[1:], moments, drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, noise, slots_c, slots_g, controllers, generators, deviations, drawn, *weights = ctx.saved_tensors
        of_states, of_moments, of_drawn = (gradient.contiguous() for gradient in gradients)
        bins, inputs, trials = noise.shape
        channels = seen.shape[1] - len(weights[0])
        back = [weight.t() for weight in weights]
        factors, into_controller, of_controller, to_inputs, into_generator, of_generator = back
        sums = [torch.zeros_like(weight) for weight in weights]
        biases = [slots.new_zeros(slots.shape[1]) for slots in (slots_c, of_moments, slots_g)]
        ones = noise.new_ones(trials)
        half_noise = noise.mul(deviations).mul_(0.5)
        to_moments, to_seen = of_moments.clone(), torch.empty_like(seen)
        to_external = slots_g.new_empty(bins, 3 * generators.shape[1], trials) if ctx.known else None
        change_c, change_g = (_Slots.one(torch.empty_like(slots[0])) for slots in (slots_c, slots_g))
        to_c, to_g = torch.zeros_like(controllers[0]), torch.zeros_like(generators[0])
        views = zip(
            seen.unbind(),
            to_seen.unbind(),
            to_seen[:, channels:].unbind(),
            _Slots.of(slots_c),
            _Slots.of(slots_g),
            controllers[:-1].unbind(),
            controllers[1:].unbind(),
            generators[:-1].unbind(),
            of_states.unbind(),
            to_moments.unbind(),
            to_moments[:, :inputs].unbind(),
            to_moments[:, inputs:].unbind(),
            of_drawn.unbind(),
            half_noise.unbind(),
            drawn.unbind(),
            range(bins),
            strict=True,
        )
        for (
            sight,
            to_sight,
            to_factor,
            slot_c,
            slot_g,
            c,
            next_c,
            g,
            of_g,
            moment,
            mean,
            log_variance,
            of_u,
            half,
            u,
            t,
        ) in reversed(list(views)):
            to_g.add_(of_g)
            slot_g.back(g, change_g, to_g)
            to_u = torch.addmm(of_u, into_generator, change_g.of_input)
            mean.add_(to_u)
            log_variance.addcmul_(to_u, half)
            to_c.addmm_(to_inputs, moment)
            slot_c.back(c, change_c, to_c)
            torch.mm(into_controller, change_c.of_input, out=to_sight)
            to_g.addmm_(of_generator, change_g.of_state).addmm_(factors, to_factor)
            to_c.addmm_(of_controller, change_c.of_state)
            if to_external is not None:
                to_external[t] = change_g.of_input
            sums[0].addmm_(to_factor, g.t())
            sums[1].addmm_(change_c.of_input, sight.t())
            sums[2].addmm_(change_c.of_state, c.t())
            sums[3].addmm_(moment, next_c.t())
            sums[4].addmm_(change_g.of_input, u.t())
            sums[5].addmm_(change_g.of_state, g.t())
            biases[0].addmv_(change_c.all, ones)
            biases[1].addmv_(moment, ones)
            biases[2].addmv_(change_g.all, ones)
        of_bias = [bias.unsqueeze(1) for bias in biases]
        return (
            to_seen[:, :channels].transpose(1, 2),
            to_external,
            None,
            to_c,
            to_g,
            *sums[:3],
            of_bias[0],
            sums[3],
            of_bias[1],
            *sums[4:],
            of_bias[2],
        )


class _Slots(NamedTuple):
    """The slots of one cell in one bin; after a step they hold what entered n from the state, r, z and n."""

    all: Tensor
    of_state: Tensor  # the first three
    of_input: Tensor  # the last three
    gates: Tensor  # r and z
    hidden: Tensor
    reset: Tensor
    update: Tensor
    new: Tensor

    @classmethod
    def of(cls, slots: Tensor) -> list[_Slots]:
        """Return those of every bin."""
        size = slots.shape[1] // 4
        ranges = ((0, 4), (0, 3), (1, 4), (1, 3), (0, 1), (1, 2), (2, 3), (3, 4))
        return [cls(*views) for views in zip(*(slots[:, a * size : b * size].unbind() for a, b in ranges), strict=True)]

    @classmethod
    def one(cls, slots: Tensor) -> _Slots:
        """Return those of one bin."""
        return cls.of(slots[None])[0]

    def step(self, before: Tensor, after: Tensor, scratch: Tensor) -> None:
        """Compute the state after the bin."""
        self.gates.sigmoid_()
        # tanh(x) = 2 sigmoid(2 x) - 1: on a CPU torch's sigmoid takes a fifth of the time of its tanh.
        self.new.addcmul_(self.reset, self.hidden).mul_(2).sigmoid_().mul_(2).sub_(1)
        torch.sub(before, self.new, out=scratch)
        torch.addcmul(self.new, self.update, scratch, out=after)

    def back(self, before: Tensor, change: _Slots, gradient: Tensor) -> None:
        """Write the gradient of each slot; leave of the state's gradient what the gate z passes on."""
        torch.sub(before, self.new, out=change.update).mul_(gradient)
        kept = gradient * self.update
        _tanh_backward(gradient.sub_(kept), self.new, grad_input=change.new)
        torch.mul(change.new, self.hidden, out=change.reset)
        _sigmoid_backward(change.gates, self.gates, grad_input=change.gates)
        torch.mul(change.new, self.reset, out=change.hidden)
        gradient.copy_(kept)
