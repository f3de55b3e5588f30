"""Tells of losses that weigh or leave out labels, or compare samples, where this can be seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from lightning_app.strategies.checks.gathers import Gathers
from lightning_app.strategies.checks.loss_graph import is_of_samples

Tell = Callable[[str], None]

OVER_CLASSES = (functional.cross_entropy, functional.nll_loss)
BROADCAST = (functional.cosine_similarity, functional.pairwise_distance)
COMPARISONS = (
    *(torch.cdist, torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__),
    *(torch.einsum, torch.tensordot, torch.inner, Tensor.inner, functional.linear),
    *BROADCAST,
)
MEANS = ("mean", "_loss", "cross_entropy")
SPREADS = (torch.std, torch.var, torch.std_mean, torch.var_mean, Tensor.std, Tensor.var)
ROLLS = (torch.roll, Tensor.roll)
FLIPS = (torch.flip, Tensor.flip)
UPSIDE_DOWN = (torch.flipud, Tensor.flipud)
MIXES = (
    *(torch.softmax, torch.log_softmax, functional.softmax, functional.log_softmax),
    *(torch.cumsum, torch.logcumsumexp, torch.logsumexp, functional.normalize),
    *(Tensor.softmax, Tensor.log_softmax, Tensor.cumsum, Tensor.logcumsumexp, Tensor.logsumexp),
)


@contextmanager
def tells_of_weighted_means(
    step: str, num_samples: int, tell: Tell, gathers: Gathers
) -> Iterator[None]:
    """Tell if a loss that is computed meanwhile weighs samples, leaves some out, or compares them.

    Args:
        step: Its name, for the user.
        num_samples: That it is given.
        tell: Is given the line.
        gathers: Follows what it gathers.
    """
    with _Watch(step, num_samples, tell, gathers):
        yield


def _is_differentiated_as_one() -> bool:
    """Whether `torch.func` takes gradients of all samples at once, as meta-learning does."""
    functions = torch._C._functorch
    kinds = {transform.key() for transform in functions.get_interpreter_stack() or ()}
    return bool(kinds) and functions.TransformType.Vmap not in kinds


class _Watch(TorchFunctionMode):
    def __init__(self, step: str, num_samples: int, tell: Tell, gathers: Gathers) -> None:
        super().__init__()
        self._step, self._num_samples, self._tell = step, num_samples, tell
        self._gathers = gathers
        self._looks: dict[Callable[..., Any], Callable[..., None]] = {
            **dict.fromkeys(OVER_CLASSES, self._look_at_classes),
            **dict.fromkeys(SPREADS, self._look_at_spread),
            **dict.fromkeys(ROLLS, self._look_at_roll),
            **dict.fromkeys(FLIPS, self._look_at_flip),
            **dict.fromkeys(UPSIDE_DOWN, partial(self._look_at_flip, dims=0)),
            **dict.fromkeys(MIXES, self._look_at_mix),
            torch.autograd.grad: self._look_at_gradients,
        }

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # what the user's own `torch.compile` traces
            return func(*args, **kwargs)
        look = self._looks.get(func)
        if look is not None:
            # Not what vmap hides, nor what is not a call of that function.
            with suppress(RuntimeError, TypeError, AttributeError):
                look(func.__name__, *args, **kwargs)
        result = func(*args, **kwargs)
        if func in COMPARISONS:
            with suppress(RuntimeError, TypeError, AttributeError):  # what vmap hides; numbers
                self._look_at_pairs(func, result, [*args, *kwargs.values()])
        elif func is torch.pdist and result.requires_grad:
            self._look_at_pairs(func, result.new_empty(2 * (len(args[0]),)), [*args, *args])
        name = getattr(func, "__name__", "")
        with suppress(RuntimeError):  # a view of what was written to since
            self._gathers.look(func, args, kwargs, result)
        if name.endswith(MEANS) and _is_differentiated_as_one():
            self._tell_of_others("takes gradients of the samples by parameters")
        return result

    def _look_at_pairs(self, func: Callable[..., Any], result: Tensor, operands: list[Any]) -> None:
        """Tell of a table with a row and a column for each sample, or for two views of each.

        Or of products of features, summed over the samples; or of distances of some samples, as of
        queries, from what others are put together to.
        """
        size = self._num_samples
        flat = [t for one in operands for t in (one if isinstance(one, (list, tuple)) else [one])]
        computed = [t for t in flat if isinstance(t, Tensor) and t.requires_grad and t.grad_fn]
        if size <= 1 or len(computed) != 2:
            return
        first, second = computed
        are_tables = first.ndim == second.ndim == 2
        is_summed = (  # the first is turned over; of a layer `x @ weight.T`, the second
            are_tables
            and first.layout is torch.strided
            and not first.is_contiguous()
            and first.shape[1] == len(second) == size
        )
        is_summed_by_name = (
            func in (torch.einsum, torch.tensordot)
            and result.ndim == 2
            and len(first) == len(second) == size != len(result)
        )
        is_table = result.shape in ((size, size), (2 * size, 2 * size)) and (
            are_tables or func in BROADCAST  # experts of each sample are weighed by `bed,be->bd`
        )
        is_of_distances = (
            func is torch.cdist
            and are_tables
            and first is not second
            and size in (len(first), len(second))
        )
        if (is_table or is_summed or is_summed_by_name or is_of_distances) and all(
            is_of_samples(one.grad_fn) for one in computed
        ):
            self._tell_of_others("compares each sample with the others", *computed)

    def _look_at_spread(
        self, name: str, input: Tensor, dim: Any = None, *others: Any, **more: Any
    ) -> None:
        """Tell of a deviation over the samples, as targets are made standard by, or VICReg has."""
        dim = more.get("axis", dim)  # NumPy's name
        is_of_all = dim is None or isinstance(dim, bool)
        self._tell_if_over(name, input, range(input.ndim) if is_of_all else dim)

    def _look_at_roll(self, name: str, input: Tensor, shifts: Any, dims: Any = 0) -> None:
        """Tell of samples that are put beside others."""
        self._tell_if_over(name, input, dims)

    def _look_at_flip(self, name: str, input: Tensor, *each: int, dims: Any = None) -> None:
        """Tell of a batch that is mixed with itself, turned over."""
        if dims is None:
            dims = each[0] if len(each) == 1 else each
        self._tell_if_over(name, input, dims)

    def _look_at_mix(self, name: str, input: Tensor, *others: Any, **more: Any) -> None:
        """Tell of what goes over the samples, as Cox's partial likelihood does.

        The first of three dimensions may be that of time, or of experts.
        """
        if input.ndim > 2:
            return
        at = 1 if name == "normalize" else 0  # after the norm
        dim = others[at] if len(others) > at else more.get("dim", more.get("axis"))
        if dim is not None and input.grad_fn is not None:
            self._tell_if_over(name, input, dim, is_computed=True)

    def _tell_if_over(self, name: str, input: Tensor, dim: Any, is_computed: bool = False) -> None:
        dims = [dim] if isinstance(dim, int) else dim
        is_over_first = input.ndim > 0 and any(d % input.ndim == 0 for d in dims)
        if not (is_over_first and len(input) == self._num_samples > 1):
            return
        if not is_computed or is_of_samples(input.grad_fn):
            self._tell_of_others(f"takes `{name}` over the samples", input)

    def _look_at_gradients(self, name: str, outputs: Any, inputs: Any, **more: Any) -> None:
        """Tell of gradients by parameters, as losses are balanced by."""
        given = [inputs] if isinstance(inputs, Tensor) else inputs
        if any(isinstance(one, nn.Parameter) for one in given):
            self._tell_of_others("takes gradients of the samples by parameters")

    def _tell_of_others(self, what: str, *of: Tensor) -> None:
        if not any(map(self._gathers.has, of)):
            self._tell(
                f"{self._step} {what}, of which a process has only its own, so its numbers may "
                "depend on the number of devices: docs/your_code.md"
            )

    def _look_at_number(self, name: str, number: int) -> None:
        """Tell of a number of values that cannot be the same for each sample."""
        if self._num_samples and number % self._num_samples:
            self._tell_why(f"{name} does not have as many values for one sample as for another")

    def _look_at_classes(
        self,
        name: str,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        **others: Any,
    ) -> None:
        if reduction != "mean":
            return
        if target.is_floating_point():  # torch divides by their number, also with class weights
            self._look_at_number(name, input.numel() // input.shape[min(1, input.ndim - 1)])
        elif weight is not None:
            self._tell_why(f"{name} weighs its classes")
        elif not self._is_even(target == ignore_index):
            self._tell_why(f"{name} leaves out labels of {ignore_index}")
        else:
            self._look_at_number(name, target.numel())

    def _tell_why(self, why: str) -> None:
        line = (
            f"{self._step}: {why}, so the loss is not a mean over samples, and several processes "
            "weigh it differently from one device. Say what it is a mean over, by a method "
            "`loss_is_mean_over(batch)` of the model: docs/your_code.md"
        )
        self._tell(line)

    def _is_even(self, left_out: Tensor) -> bool:
        """Whether as much is left out of each sample, as of texts that are shifted by a word."""
        if not left_out.any():
            return True
        if not self._num_samples or left_out.numel() % self._num_samples:
            return False
        counts = left_out.reshape(self._num_samples, -1).sum(1)
        return bool((counts == counts[0]).all())
