"""A controller and a generator that drive each other, as one loop with a hand-written backward pass.

In every bin, two GRUs (reset gate after the matrix product, as in torch) take turns (Sussillo et al. 2016,
doi:10.48550/arXiv.1608.06315):

    c_t = GRU_c(c_{t-1}, [code_t, F g_{t-1}]),  (mean_t, log_variance_t) = W c_t + b
    u_t = mean_t + exp(log_variance_t / 2) noise_t,  g_t = GRU_g(g_{t-1}, [u_t, external_t])

What does not depend on the loop (codes and external inputs) enters as projections for all bins. Each cell keeps four
slots, ``[n_hidden, r, z, n_input]``: its hidden weights feed the first three, its input weights the last three. The
factors F g that the controller sees are folded into its input weights, so that g feeds the controller's last three and
its own first three slots, which lie next to each other, by one matrix product. The backward pass computes everything
elementwise for all bins beforehand, and gathers the gradients of weights into one product each afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["controlled_generator", "hidden_rows", "input_rows"]


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
    channels, inputs = codes.shape[-1], noise.shape[-1]
    code_weight, factor_weight = controller.weight_ih[:, :channels], controller.weight_ih[:, channels:]
    of_generator = torch.cat([factor_weight @ factors, hidden_rows(generator.weight_hh)])
    return _ControlledGenerator.apply(
        torch.nn.functional.linear(codes, input_rows(code_weight), _bias(controller)),
        torch.nn.functional.linear(external, input_rows(generator.weight_ih[:, inputs:]), _bias(generator)),
        noise,
        *start,
        of_generator,
        hidden_rows(controller.weight_hh),
        to_inputs.weight,
        to_inputs.bias,
        generator.weight_ih[:, :inputs],
    )


def hidden_rows(weight: Float[Tensor, "gates hidden"]) -> Float[Tensor, "gates hidden"]:
    """Return the rows of torch's (r, z, n) in the order of the slots (n, r, z)."""
    reset_and_update, new = weight.split([len(weight) // 3 * 2, len(weight) // 3])
    return torch.cat([new, reset_and_update])


def input_rows(weight: Float[Tensor, "gates channel"]) -> Float[Tensor, "slots channel"]:
    """Return input weights for all four slots: nothing goes into the first."""
    return torch.cat([weight.new_zeros(len(weight) // 3, weight.shape[1]), weight])


def _bias(cell: nn.GRUCell) -> Tensor:
    third = cell.hidden_size
    gates, new = cell.bias_hh.split([2 * third, third])
    return torch.cat([new, cell.bias_ih[: 2 * third] + gates, cell.bias_ih[2 * third :]])


class _ControlledGenerator(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        code_slots: Tensor,
        external_slots: Tensor,
        noise: Tensor,
        controller: Tensor,
        generator: Tensor,
        of_generator: Tensor,  # generator -> controller's last three slots, generator's first three
        of_controller: Tensor,  # controller -> its first three slots
        to_inputs: Tensor,
        to_inputs_bias: Tensor,
        of_inputs: Tensor,  # inferred inputs -> generator's last three slots
    ) -> tuple[Tensor, Tensor, Tensor]:
        bins, trials, inputs = noise.shape
        c, g = controller.shape[1], generator.shape[1]
        slots = torch.cat([code_slots, external_slots], -1)
        controllers = slots.new_empty(bins + 1, trials, c)
        generators = slots.new_empty(bins + 1, trials, g)
        controllers[0], generators[0] = controller, generator
        moments = slots.new_empty(bins, trials, 2 * inputs)
        deviations = slots.new_empty(bins, trials, inputs)
        drawn = slots.new_empty(bins, trials, inputs)
        transposed = [weight.t().contiguous() for weight in (of_generator, of_controller, to_inputs, of_inputs)]
        from_generator, from_controller, into_inputs, from_inputs = transposed
        for t in range(bins):
            both, c_state, g_state = slots[t], controllers[t], generators[t]
            both[:, c : 4 * c + 3 * g].addmm_(g_state, from_generator)
            both[:, : 3 * c].addmm_(c_state, from_controller)
            _cell(both[:, : 4 * c], c_state, controllers[t + 1])
            torch.addmm(to_inputs_bias, controllers[t + 1], into_inputs, out=moments[t])
            mean, log_variance = moments[t].chunk(2, -1)
            torch.mul(log_variance, 0.5, out=deviations[t]).exp_()
            torch.addcmul(mean, deviations[t], noise[t], out=drawn[t])
            both[:, 4 * c + g :].addmm_(drawn[t], from_inputs)
            _cell(both[:, 4 * c :], g_state, generators[t + 1])
        ctx.save_for_backward(
            slots, controllers, generators, noise, deviations, drawn, of_generator, of_controller, to_inputs, of_inputs
        )
        return generators[1:], moments, drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (
            slots,
            controllers,
            generators,
            noise,
            deviations,
            drawn,
            of_generator,
            of_controller,
            to_inputs,
            of_inputs,
        ) = ctx.saved_tensors
        of_states, of_moments, of_drawn = gradients
        c, g = controllers.shape[-1], generators.shape[-1]
        # Slot by slot, the derivative of the next state with respect to what entered the slot.
        change = torch.empty_like(slots)
        keep_c = _derivatives(slots[..., : 4 * c], controllers[:-1], change[..., : 4 * c])
        keep_g = _derivatives(slots[..., 4 * c :], generators[:-1], change[..., 4 * c :])
        half_noise = noise * deviations * 0.5
        of_moments = of_moments.clone(memory_format=torch.contiguous_format)
        to_c, to_g = torch.zeros_like(controllers[0]), torch.zeros_like(generators[0])
        for t in range(len(slots) - 1, -1, -1):
            both = change[t]
            to_g = to_g + of_states[t]
            both[:, 4 * c :].unflatten(-1, (4, g)).mul_(to_g.unsqueeze(1))
            to_drawn = torch.addmm(of_drawn[t], both[:, 4 * c + g :], of_inputs)
            mean, log_variance = of_moments[t].chunk(2, -1)
            mean.add_(to_drawn)
            log_variance.addcmul_(to_drawn, half_noise[t])
            to_c.addmm_(of_moments[t], to_inputs)
            both[:, : 4 * c].unflatten(-1, (4, c)).mul_(to_c.unsqueeze(1))
            to_g.mul_(keep_g[t]).addmm_(both[:, c : 4 * c + 3 * g], of_generator)
            to_c.mul_(keep_c[t]).addmm_(both[:, : 3 * c], of_controller)
        return (
            change[..., : 4 * c],
            change[..., 4 * c :],
            None,
            to_c,
            to_g,
            _weights(change[..., c : 4 * c + 3 * g], generators[:-1]),
            _weights(change[..., : 3 * c], controllers[:-1]),
            _weights(of_moments, controllers[1:]),
            of_moments.sum((0, 1)),
            _weights(change[..., 4 * c + g :], drawn),
        )


def _cell(slots: Tensor, before: Tensor, after: Tensor) -> None:
    """One step of a GRU; the slots then hold what entered n from the state, r, z and n."""
    hidden, _, _, new = parts = slots.chunk(4, -1)
    third = slots.shape[-1] // 4
    slots[:, third : 3 * third].sigmoid_()
    new.addcmul_(parts[1], hidden).tanh_()
    torch.lerp(new, before, parts[2], out=after)


def _derivatives(slots: Tensor, before: Tensor, change: Tensor) -> Tensor:
    """Write the derivative of the state after each step with respect to each slot; return the gate z."""
    hidden, reset, update, new = slots.chunk(4, -1)
    to_hidden, to_reset, to_update, to_new = change.chunk(4, -1)
    torch.mul(1 - update, torch.addcmul(torch.ones_like(new), new, new, value=-1), out=to_new)
    torch.mul(to_new, reset, out=to_hidden)
    torch.mul(to_hidden * (1 - reset), hidden, out=to_reset)
    torch.mul((before - new) * update, 1 - update, out=to_update)
    return update


def _weights(outputs: Tensor, inputs: Tensor) -> Tensor:
    return outputs.flatten(0, 1).t() @ inputs.flatten(0, 1)
