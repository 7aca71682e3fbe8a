"""torch's own optimizer tests, in our words, for every optimizer of ours.

torch tests its optimizers through ``OptimizerInfo`` records, which ship with it, and test methods, which do not. The
records of our optimizers are below; a test says with ``shows`` which of torch's it stands for.
"""

import copy
import dataclasses
import functools
import io
import pickle
from importlib import import_module
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import SGD, lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from directional_pruning import GRDA, Directional
from directional_pruning.optim import kernels


def torchs_kit():
    """torch's records of optimizers; importing them changes settings of the process, which are put back."""
    profile = hypothesis.settings.get_current_profile_name()
    kit = import_module("torch.testing._internal.common_optimizers")
    hypothesis.settings.load_profile(profile)
    torch.backends.__allow_nonbracketed_mutation_flag = True
    return kit


kit = torchs_kit()
torchs_sgd = next(info for info in kit.optim_db if info.optim_cls is SGD)


def directional_sgd(params, c=0.005, mu=0.51, **options):
    return Directional(SGD(params, **options), c, mu)


def inputs(device, dtype=None):
    """What torch tests SGD with, but for the one argument GRDA does not have, and the arguments of pruning."""
    for case in kit.optim_inputs_func_sgd(device, dtype):
        if "dampening" not in case.kwargs:
            yield case
    for desc, kwargs in (
        ("pruning", {"lr": 0.02, "c": 0.5, "mu": 0.7}),
        ("pruning w/ everything", {"c": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("no pruning", {"c": 0.0}),
    ):
        yield kit.OptimizerInput(params=None, kwargs=kwargs, desc=desc)


def errors(device, dtype, *, lr="invalid lr: a tensor of shape"):
    """What every optimizer must refuse; GRDA says it its own way."""
    for case in kit.get_error_inputs_for_all_optims(device, dtype):
        if case.optimizer_error_input.desc == "Tensor lr must be 1-element":
            case.error_regex = lr
        yield case


OPTIMIZERS = [
    kit.OptimizerInfo(
        GRDA,
        optim_inputs_func=lambda device, dtype=None: list(inputs(device, dtype)),
        optim_error_inputs_func=errors,
        scheduler_inputs=torchs_sgd.scheduler_inputs,
        supported_impls=("fused",) if kernels.available() else (),
        not_og_supported_flags=(),  # those of the first release, which is the only one
        supports_complex=False,
        supports_fused_on=("cpu",),
    ),
    kit.OptimizerInfo(
        directional_sgd,
        optim_inputs_func=lambda device, dtype=None: list(inputs(device, dtype)),
        optim_error_inputs_func=functools.partial(errors, lr="Tensor lr must be 1-element"),
        scheduler_inputs=torchs_sgd.scheduler_inputs,
        supported_impls=("fused",),
        not_og_supported_flags=torchs_sgd.not_og_supported_flags,
        supports_complex=False,
        supports_fused_on=("cpu",),
    ),
]

ELSEWHERE = {
    "test_complex": "test_grda.test_parameters_that_cannot_be_thresholded_are_refused_by_name",
    "test_complex_2d": "test_directional.test_mistakes_are_named",
    "test_rosenbrock_sparse": "test_grda.test_a_sparse_gradient_is_refused_before_anything_moves",
    "test_correctness": "test_modes.test_a_compiled_step_agrees_and_is_compiled_at_most_twice_while_the_rate_changes",
    "test_foreach_matches_forloop": "test_modes.test_every_mode_gives_the_same_numbers",
    "test_fused_matches_forloop": "test_cpu_kernel.test_the_kernel_and_torchs_operations_agree_at_every_size",
    "test_fused_error_on_params_on_meta": "test_cpu_kernel.test_fused_true_refuses_by_name_what_it_cannot_update",
}
NOT_APPLICABLE = {
    "test_cpu_load_state_dict": "CUDA: fused and capturable states that were moved to the CPU",
    "test_defaults_changed_to_foreach": "CUDA: that foreach is the default there",
    "test_foreach_large_tensor": "CUDA: 72 GB for one parameter",
    "test_forloop_goes_right_direction_multigpu": "CUDA: two devices",
    "test_fused_cpu_matches_cuda": "CUDA",
    "test_fused_does_not_step_if_foundinf": "CUDA: scaling inside the kernel; GradScaler skips the step of ours",
    "test_fused_large_tensor": "64 GB for one parameter",
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": "about torch's records, not about an optimizer",
    "test_second_order_optims_return_consistent_types": "ours are of first order",
    "test_state_dict_with_cuda_params": "CUDA",
}
HERE = {}


def shows(*names):
    """Note which of torch's tests this one stands for."""

    def note(test):
        HERE.update(dict.fromkeys(names, test.__name__))
        return test

    return note


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer with one set of options; called with parameters, it makes one."""

    optimizer: object
    options: dict
    name: str

    def __call__(self, params, **changes):
        # A tensor rate is written to by schedulers: each optimizer gets its own.
        return self.optimizer.optim_cls(params, **copy.deepcopy({**self.options, **changes}))

    def for_any_parameter(self, params, **changes):
        """GRDA's fused=True refuses what the kernel cannot update."""
        return self(params, **({"fused": None} if self.options.get("fused") else {}), **changes)


def cases(optimizer):
    for case in kit._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, optimizer):
        yield Case(optimizer, case.kwargs, f"{optimizer.name}: {case.desc}")


every_input = pytest.mark.parametrize("make", [case for o in OPTIMIZERS for case in cases(o)], ids=lambda c: c.name)
every_optimizer = pytest.mark.parametrize(
    "make",
    [Case(o, {"lr": 0.02, "c": 0.3, "mu": 0.7, "momentum": 0.9}, o.name) for o in OPTIMIZERS],
    ids=lambda c: c.name,
)
exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


def problem(layout=None):
    """Two parameters and their loss, the same each time; ``layout`` makes one out of a tensor without changing it."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float32) for shape in ((10, 5), (10,))]
    weight, bias = (nn.Parameter(layout(t) if layout else t) for t in tensors)
    x = torch.randn(5, generator=generator, dtype=torch.float32)
    return [weight, bias], lambda: (weight.mv(x) + bias).square().sum()


def advance(optimizer, loss, steps=1):
    """The losses of as many steps."""

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return [optimizer.step(closure).item() for _ in range(steps)]


def named(params, yes=True):
    return [(f"name{i}", p) for i, p in enumerate(params)] if yes else params


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def without_names(state):
    return {
        **state,
        "param_groups": [{k: v for k, v in g.items() if k != "param_names"} for g in state["param_groups"]],
    }


def test_all_of_torchs_tests_are_run_or_listed():
    assert not (
        HERE.keys() & ELSEWHERE.keys() | HERE.keys() & NOT_APPLICABLE.keys() | ELSEWHERE.keys() & NOT_APPLICABLE
    )
    for place in ELSEWHERE.values():
        file, name = place.split(".")
        assert f"def {name}(" in Path(__file__).with_name(f"{file}.py").read_text()
    # torch names its tests where it excuses an optimizer from one.
    mentioned = {d.test_name for info in kit.optim_db for d in info.decorators if hasattr(d, "test_name")}
    assert len(mentioned) > 15
    assert mentioned - {None} <= HERE.keys() | ELSEWHERE.keys() | NOT_APPLICABLE.keys()


@shows("test_errors")
@pytest.mark.parametrize(
    ("optimizer", "case"),
    [(o, case) for o in OPTIMIZERS for case in o.optim_error_inputs_func("cpu", torch.float32)],
    ids=lambda x: x.name if isinstance(x, kit.OptimizerInfo) else x.optimizer_error_input.desc,
)
def test_what_every_optimizer_refuses_is_refused(optimizer, case):
    refused = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
    params = case.optimizer_error_input.params
    with refused(case.error_type, match=case.error_regex):
        optimizer.optim_cls(problem()[0] if params is None else params, **case.optimizer_error_input.kwargs)


LAYOUTS = {
    "every second": lambda t: torch.stack([t, t], -1)[..., 0],
    "transposed": lambda t: t.t().contiguous().t(),
    "reversed storage": lambda t: torch.cat([t, t])[len(t) :],
}


@shows("test_forloop_goes_right_direction")
@every_input
def test_the_loss_goes_the_right_way_whatever_the_strides(make):
    params, loss = problem()
    optimizer = make.for_any_parameter(params)
    twins = [problem(layout)[0] for layout in LAYOUTS.values()]
    strided = [make.for_any_parameter(twin) for twin in twins]
    losses = []
    for _ in range(20):
        losses += advance(optimizer, loss)
        for twin, its_optimizer in zip(twins, strided, strict=True):
            for p, q in zip(params, twin, strict=True):
                q.grad = p.grad.clone()
            its_optimizer.step()
            if make.options.get("momentum") and make.options.get("fused"):
                # What does not lie densely takes torch's operations, which round once more in the momentum.
                torch.testing.assert_close(twin, params, rtol=1e-5, atol=1e-6)
            else:
                exactly(twin, params)
    assert (losses[-1] > losses[0]) == make.options.get("maximize", False)


SCHEDULERS = {
    "LambdaLR": lambda o: [lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + n))],
    "MultiplicativeLR": lambda o: [lr_scheduler.MultiplicativeLR(o, lambda _: 0.95)],
    "MultiStepLR": lambda o: [lr_scheduler.MultiStepLR(o, [4, 9])],
    "CosineAnnealingLR": lambda o: [lr_scheduler.CosineAnnealingLR(o, 20)],
    "CosineAnnealingWarmRestarts": lambda o: [lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2)],
    "CyclicLR": lambda o: [lr_scheduler.CyclicLR(o, 0.005, 0.03, step_size_up=4)],
    "OneCycleLR": lambda o: [lr_scheduler.OneCycleLR(o, 0.03, total_steps=20)],
    "ReduceLROnPlateau": lambda o: [lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9)],
    "SWALR": lambda o: [swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=8)],
    "SequentialLR": lambda o: [
        lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[5]
        )
    ],
    "ChainedScheduler": lambda o: [
        lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o, 0.5, 5), lr_scheduler.ExponentialLR(o, 0.9)])
    ],
    **{
        f"torch's {i}": lambda o, makers=makers: [make(o) for make in makers]
        for i, makers in enumerate(torchs_sgd.scheduler_inputs)
    },
}


@shows("test_param_group_with_lrscheduler_goes_right_direction")
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02)], ids=["float", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@every_optimizer
def test_a_schedule_is_the_same_rates_set_by_hand(make, schedule, lr):
    params, loss = problem()
    optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": copy.deepcopy(lr) / 2}], lr=lr)
    schedulers, rates, losses = schedule(optimizer), [], []
    for _ in range(20):
        rates.append([(float(group["lr"]), group["momentum"]) for group in optimizer.param_groups])
        losses += advance(optimizer, loss)
        for scheduler in schedulers:
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(losses[-1]) if plateau else scheduler.step()
    assert min(losses[-5:]) < losses[0]
    assert len(set(map(tuple, rates))) > 1

    again, its_loss = problem()
    by_hand = make([{"params": again[:1]}, {"params": again[1:]}])
    for rate in rates:
        for group, (lr, momentum) in zip(by_hand.param_groups, rate, strict=True):
            group.update(lr=lr, momentum=momentum)
        advance(by_hand, its_loss)
    exactly(again, params)


@shows("test_tensor_lr")
@every_input
def test_a_rate_in_a_tensor_is_the_rate(make):
    lr = 2.0**-7  # the same number in float32
    params, loss = problem()
    losses = advance(make(params, lr=lr), loss, 5)
    for shape in ((), (1,)):
        again, its_loss = problem()
        assert advance(make(again, lr=torch.full(shape, lr)), its_loss, 5) == losses
        exactly(again, params)


@shows("test_param_groups_weight_decay", "test_param_groups_lr")
@pytest.mark.parametrize("difference", [{"weight_decay": 0.3}, {"lr": 1e-28}], ids=str)
@every_input
def test_two_groups_are_two_optimizers(make, difference):
    (params, loss), (again, its_loss) = problem(), problem()
    together = make([{"params": params[:1]}, {"params": params[1:], **difference}])
    apart = [make(again[:1]), make(again[1:], **difference)]
    advance(together, loss, 10)
    for _ in range(10):
        for optimizer in apart:
            optimizer.zero_grad()
        its_loss().backward()
        for optimizer in apart:
            optimizer.step()
    exactly(params, again)
    assert "lr" not in difference or torch.equal(params[1], problem()[0][1])


@shows("test_mixed_device_dtype")
@every_input
def test_parameters_of_different_dtypes_do_not_mix(make):
    def fresh():
        dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        params = [nn.Parameter(torch.linspace(-1, 1, 6).to(dtype)) for dtype in dtypes]
        for p in params:
            p.grad = p.detach().flip(0)
        return params

    together, apart = fresh(), fresh()
    one, each = make.for_any_parameter(together), [make.for_any_parameter([p]) for p in apart]
    for _ in range(5):
        for optimizer in (one, *each):
            optimizer.step()
    exactly(together, apart)


@every_input
def test_parameters_without_elements_or_without_dimensions_are_trained(make):
    params = [nn.Parameter(torch.full(shape, 0.7)) for shape in ((0,), (3, 0), (), (1,))]
    for p in params:
        p.grad = torch.full_like(p, 0.1)
    optimizer = make(params)
    for _ in range(3):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
    exactly(params[2].reshape(1), params[3])
    assert params[2] != 0.7


@shows("test_step_is_noop_when_params_have_no_grad")
@every_input
def test_without_gradients_a_step_does_nothing(make):
    params, _ = problem()
    optimizer = make(params)
    assert optimizer.step(lambda: 3.0) == 3.0
    exactly(params, problem()[0])
    assert not any(optimizer.state.values())


@shows("test_step_is_noop_for_zero_grads")
@every_input
def test_gradients_of_zero_move_nothing_but_what_the_threshold_takes(make):
    if make.options.get("weight_decay"):
        make = dataclasses.replace(make, options={**make.options, "weight_decay": 0.0})
    params, _ = problem()
    optimizer = make(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, before in zip(params, problem()[0], strict=True):
        g = optimizer.state[p].get("threshold", torch.tensor(0.0)).item()
        exactly(p.detach(), before - before.clamp(-g, g))


@shows("test_set_default_dtype_works_with_foreach")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@every_optimizer
def test_the_default_dtype_changes_nothing(make, dtype):
    params, loss = problem()
    reference = make(params)
    advance(reference, loss, 5)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        again, its_loss = problem()
        optimizer = make(again)
        advance(optimizer, its_loss, 5)
    finally:
        torch.set_default_dtype(before)
    exactly(again, params)
    exactly(optimizer.state_dict()["state"], reference.state_dict()["state"])


@shows("test_non_empty_state", "test_optimizer_can_be_printed")
@every_input
def test_a_printed_optimizer_tells_its_options_and_every_trained_parameter_has_state(make):
    params, loss = problem()
    optimizer = make(params)
    text = repr(optimizer)
    for name, value in optimizer.defaults.items():
        assert f"{name}: {value}\n" in text
    advance(optimizer, loss)
    no_memory = make.options.get("c") == 0 and isinstance(optimizer, Directional) and not make.options.get("momentum")
    assert all(optimizer.state[p] for p in params) or no_memory  # as of SGD without momentum


@shows("test_state_dict_deterministic", "test_can_load_from_to_named_state_dict")
@pytest.mark.parametrize("names", [(False, False), (False, True), (True, False), (True, True)], ids=str)
@every_optimizer
def test_state_moves_between_named_and_unnamed_parameters(make, names):
    params, loss = problem()
    optimizer = make(named(params, names[0]))
    advance(optimizer, loss, 5)
    again, its_loss = problem()
    other = make(named(again, names[1]))
    saved = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    exactly(without_names(saved), without_names(optimizer.state_dict()))  # loading did not write to it
    with torch.no_grad():
        for p, q in zip(again, params, strict=True):
            p.copy_(q)
    assert advance(other, its_loss, 5) == advance(optimizer, loss, 5)
    exactly(again, params)
    exactly(without_names(other.state_dict()), without_names(optimizer.state_dict()))
    if any(names):
        assert other.state_dict()["param_groups"][0]["param_names"] == ["name0", "name1"]
    other.param_groups.extend(other.param_groups)
    groups = without_names(other.state_dict())["param_groups"]
    exactly(groups[0], groups[1])


@shows("test_save_load_equality_with_weights_only")
@every_input
def test_a_saved_state_is_read_without_running_code(make):
    params, loss = problem()
    optimizer = make(named(params))
    advance(optimizer, loss, 3)
    read = through_file(optimizer.state_dict())
    exactly(without_names(read), without_names(optimizer.state_dict()))
    assert read["param_groups"][0]["param_names"] == ["name0", "name1"]


@shows("test_load_nontensor_step")
@every_optimizer
def test_a_state_whose_counts_are_plain_numbers_is_loaded(make):
    params, loss = problem()
    optimizer = make(params)
    advance(optimizer, loss, 3)
    plain = copy.deepcopy(optimizer.state_dict())
    for state in plain["state"].values():
        state.update({k: v.item() for k, v in state.items() if k in ("step", "updates", "threshold")})
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(plain)
    exactly(optimizer.state_dict(), before)
    advance(optimizer, loss)


@shows("test_can_load_older_state_dict")
@every_optimizer
def test_a_state_from_before_an_option_existed_is_loaded(make):
    params, loss = problem()
    optimizer = make(params)
    advance(optimizer, loss, 3)
    old = copy.deepcopy(optimizer.state_dict())
    for flag in make.optimizer.not_og_supported_flags:
        for group in old["param_groups"]:
            group.pop(flag, None)
    optimizer.load_state_dict(old)
    advance(optimizer, loss)


@shows("test_state_dict_pre_hook", "test_state_dict_post_hook", "test_state_dict_pre_post_hook")
@every_optimizer
def test_hooks_around_saving_run_in_their_order(make):
    optimizer, order = make(problem()[0]), []

    def before(name):
        return lambda o: order.append((name, o is optimizer))

    def after(name):
        return lambda _, state: {**state, "seen": (*state.get("seen", ()), name)}

    handles = [
        optimizer.register_state_dict_pre_hook(before("second")),
        optimizer.register_state_dict_pre_hook(before("first"), prepend=True),
        optimizer.register_state_dict_post_hook(after("second")),
        optimizer.register_state_dict_post_hook(after("first"), prepend=True),
    ]
    assert optimizer.state_dict()["seen"] == ("first", "second")
    assert order == [("first", True), ("second", True)]
    for handle in handles:
        handle.remove()
    assert "seen" not in optimizer.state_dict()


@shows(
    "test_load_state_dict_pre_hook_and_prepend", "test_load_state_dict_post_hook", "test_load_state_dict_pre_post_hook"
)
@every_optimizer
def test_hooks_around_loading_run_in_their_order(make):
    optimizer, order = make(problem()[0]), []
    state = optimizer.state_dict()

    def rate(lr):
        return lambda _, state: {**state, "param_groups": [{**group, "lr": lr} for group in state["param_groups"]]}

    def after(name):
        return lambda o: order.append((name, o.param_groups[0]["lr"]))

    handles = [
        optimizer.register_load_state_dict_pre_hook(rate(0.2)),
        optimizer.register_load_state_dict_pre_hook(rate(0.1), prepend=True),
        optimizer.register_load_state_dict_post_hook(after("second")),
        optimizer.register_load_state_dict_post_hook(after("first"), prepend=True),
    ]
    optimizer.load_state_dict(state)
    assert order == [("first", 0.2), ("second", 0.2)]
    for handle in handles:
        handle.remove()
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == state["param_groups"][0]["lr"]
    assert len(order) == 2


@shows("test_step_pre_hook", "test_step_post_hook", "test_step_all_hooks")
@every_optimizer
def test_hooks_around_a_step_run_in_their_order(make):
    params, loss = problem()
    optimizer, order = make(params), []

    def hook(name):
        return lambda o, *_: order.append(name) if o is optimizer else None  # the process has other optimizers

    handles = [
        register_optimizer_step_pre_hook(hook("all before")),
        register_optimizer_step_post_hook(hook("all after")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
    ]
    advance(optimizer, lambda: (order.append("loss"), loss())[1], 2)
    assert order == ["all before", "before", "loss", "after", "all after"] * 2
    for handle in handles:
        handle.remove()
    advance(optimizer, loss)
    assert len(order) == 10


@shows("test_deepcopy_copies_all_public_attrs")
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@every_optimizer
def test_a_copy_has_every_public_attribute_and_takes_hooks(make, clone):
    params, loss = problem()
    optimizer = make(named(params))
    advance(optimizer, loss, 3)
    twin, calls = clone(optimizer), []
    assert {k for k in vars(twin) if k[0] != "_"} == {k for k in vars(optimizer) if k[0] != "_"}
    assert repr(twin) == repr(optimizer)
    exactly(without_names(twin.state_dict()), without_names(optimizer.state_dict()))
    twin.register_step_post_hook(lambda *_: calls.append("twin"))
    twin.step()
    optimizer.step()
    assert calls == ["twin"]


@every_optimizer
def test_zero_grad_drops_gradients_or_fills_them_with_zeros(make):
    params, loss = problem()
    optimizer = make(params)
    loss().backward()
    gradients = [p.grad for p in params]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is grad and not grad.any() for p, grad in zip(params, gradients, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@every_optimizer
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(make):
    params, loss = problem()
    optimizer, calls = make(params), []

    def closure():
        calls.append(torch.is_grad_enabled())
        value = loss()
        value.backward()
        return value

    with torch.no_grad():
        value = optimizer.step(closure)
    assert calls == [True]
    assert value.requires_grad
    assert not any(p.requires_grad for state in optimizer.state.values() for p in state.values())
    assert optimizer.step() is None


@every_optimizer
def test_a_profile_shows_the_step_by_name(make):
    params, loss = problem()
    optimizer = make(params)
    name = type(optimizer).__name__
    assert type(optimizer).step.hooked
    with torch.autograd.profiler.profile() as profile:
        advance(optimizer, loss)
    names = {event.name for event in profile.function_events}
    assert {f"Optimizer.step#{name}.step", f"Optimizer.zero_grad#{name}.zero_grad"} <= names


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it held at one time, as far as Python sees operations."""

    def __init__(self, known):
        super().__init__()
        self.bytes, self.known, self.made = 0, {t.untyped_storage().data_ptr() for t in known}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made = [(ref, size) for ref, size in self.made if not ref.expired()]
        alive = {ref.cdata for ref, _ in self.made}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in self.known:
                ref = StorageWeakRef(t.untyped_storage())
                if ref.cdata not in alive:
                    self.made.append((ref, t.untyped_storage().nbytes()))
        self.bytes = max(self.bytes, sum(size for _, size in self.made))
        return out


@shows("test_peak_memory_foreach")
@every_input
def test_a_step_needs_little_memory_beyond_its_state(make):
    params = [nn.Parameter(torch.ones(1000)) for _ in range(10)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = make(params)
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    with Peak([*params, *(p.grad for p in params), *states]) as peak:
        optimizer.step()
    every = sum(p.nbytes for p in params)
    # In a loop over the parameters, the temporaries of one; before one call of a kernel, one of each and the last's.
    assert peak.bytes <= (1.1 if make.options["fused"] else 0.2) * every
