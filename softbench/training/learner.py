"""The learner: a model with its average, optimiser and schedule, set up by a recipe over the processes of a job.

DDP copies the model to every process; `fsdp` shards it instead, for the largest. Either way checkpoints hold whole
tensors under the model's own names, so that a job may go on with another number of processes, and of either kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states

from softbench import dtypes
from softbench.contracts.recipe import Recipe
from softbench.dtypes import FLOAT16
from softbench.errors import ResultsError, UsageError
from softbench.inputs import seeding
from softbench.machine.device import is_gpu
from softbench.training.distributed import Group
from softbench.training.task import Network


@dataclass(frozen=True)
class Arithmetic:
    """How a recipe is computed: `amp` is the dtype of autocast or "none"; attention keeps its inverse in float32."""

    amp: str = "none"
    compile: bool = False
    sync_bn: bool = False
    fsdp: bool = False


class Learner:
    """Everything that learns.

    Attributes:
        model: the bare model; `network` is what is called, wrapped for several processes or compiled.
        loss: of a network over a batch.
        ema: timm's averaged copy, or None.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Network, Any], Tensor], recipe: Recipe, arithmetic: Arithmetic,
                 *, steps: int, group: Group) -> None:
        self.loss, self.recipe, self.arithmetic, self.group = loss, recipe, arithmetic, group
        self.accumulate = accumulation(recipe, group.world)
        if arithmetic.sync_bn:
            # torch's own would drop the activations that timm has inside of batch norm
            model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model.to(group.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=recipe.ema_warmup,
                              foreach=not arithmetic.fsdp) if recipe.ema else None
        if arithmetic.fsdp:
            _shard(self.model, group)
            if self.ema:
                _shard(self.ema.module, group)
        self.network = self._wrapped()
        self.optimizer = create_optimizer_v2(
            self.model, "adamw", lr=recipe.lr * recipe.total_batch / recipe.lr_batch, eps=recipe.eps,
            weight_decay=recipe.weight_decay)
        self.schedule = _schedule(self.optimizer, recipe, steps)
        self.steps = steps
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=arithmetic.amp == FLOAT16)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def loss_of(self, batch: Any, epoch: int, number: int, *, last: bool) -> Tensor:
        """The loss of micro-batch `number` of an epoch; adds its share to the gradients, which meet at the `last`."""
        seeding.reseed(self.recipe.seed, seeding.MICRO_BATCH, epoch, number)
        with self._meeting(last):
            loss = self.loss(called(self.network, self.arithmetic.amp, self.group.device), batch)
            self.scaler.scale(loss / self.accumulate).backward()
        return loss.detach()

    def norm(self) -> Tensor:
        """The norm of the gradients, which are clipped by it."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or float("inf"))
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def update(self, updates: int) -> None:
        """One step of the optimiser, the `updates`-th, and of the average."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model, step=updates if self.recipe.ema_warmup else None)

    def forget(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def move(self, updates: int) -> None:
        """Set the learning rate for the step after so many."""
        if self.recipe.schedule == "update":
            self.schedule.step_update(updates)
        else:
            self.schedule.step(updates // self.steps)

    def buffers(self) -> list[Tensor]:
        """Copies of the model's buffers, to be put back should batch norm see numbers that are not finite."""
        return [buffer.clone() for buffer in self.model.buffers()]

    def put_back(self, buffers: list[Tensor]) -> None:
        """Leave a step out: give the model's buffers these values, and have the scaler forget its gradients."""
        self.scaler.update()
        self.restore(buffers)

    @torch.no_grad()
    def restore(self, buffers: list[Tensor]) -> None:
        """Give the model's buffers these values."""
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def agree(self) -> None:
        """Give all processes the running statistics of the first, which are those that checkpoints hold."""
        if self.group.world > 1:
            for buffer in [*self.model.buffers(), *(self.ema.module.buffers() if self.ema else ())]:
                torch.distributed.broadcast(buffer, 0)

    def state(self) -> dict[str, Any]:
        """Weights, average, optimiser and scaler: whole tensors on the CPU; under FSDP on the leading process alone."""
        whole = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            "state_dict": states.get_model_state_dict(self.model, options=whole),
            **({"state_dict_ema": states.get_model_state_dict(self.ema.module, options=whole)} if self.ema else {}),
            # torch would make a step to have something to give
            "optimizer": states.get_optimizer_state_dict(self.model, self.optimizer, options=whole)
            if self.optimizer.state else {},
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any], updates: int) -> None:
        """Take over what `state` gave, after so many updates. Raises ResultsError where that is something else."""
        try:
            self._load(state)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever torch makes of it
            raise ResultsError("The last checkpoint does not hold what this model needs"
                               f" ({type(error).__name__}). Start anew with another --out.") from error
        self.move(updates)

    def _load(self, state: Mapping[str, Any]) -> None:
        whole = states.StateDictOptions(full_state_dict=True)
        states.set_model_state_dict(self.model, state["state_dict"], options=whole)
        if self.ema:
            states.set_model_state_dict(self.ema.module, state["state_dict_ema"], options=whole)
        if state["optimizer"]:
            states.set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"], options=whole)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _wrapped(self) -> nn.Module:
        network: Any = torch.compile(self.model) if self.arithmetic.compile else self.model
        if self.group.world > 1 and not self.arithmetic.fsdp:
            where = [self.group.device] if is_gpu(self.group.device) else None
            network = nn.parallel.DistributedDataParallel(network, device_ids=where)
        return network

    def _meeting(self, last: bool) -> AbstractContextManager[Any]:
        """Leaves out the exchange of gradients for all but the last micro-batch of a step."""
        if self.arithmetic.fsdp:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif not last and isinstance(self.network, nn.parallel.DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()


def called(network: nn.Module, amp: str, device: torch.device) -> Network:
    """A network as tasks call it: under autocast to the dtype `amp`, or none, and with its output in float32."""
    def call(*inputs: Tensor) -> Tensor:
        with nullcontext() if amp == "none" else torch.autocast(device.type, dtypes.of(amp)):
            output: Tensor = network(*inputs)
        return output.float()

    return call


def check(recipe: Recipe, arithmetic: Arithmetic, group: Group) -> None:
    """Raise UsageError where a recipe cannot be computed like this by these processes."""
    accumulation(recipe, group.world)
    if arithmetic.sync_bn and not is_gpu(group.device):
        raise UsageError("--sync-bn: torch synchronises batch norm on GPUs only.")
    if arithmetic.fsdp and group.world == 1:
        raise UsageError("--fsdp shards a model over several processes: start them with torchrun.")
    if arithmetic.amp == FLOAT16 and arithmetic.fsdp:
        raise UsageError("--amp float16 does not go with --fsdp: take bfloat16.")


def accumulation(recipe: Recipe, world: int) -> int:
    """How many micro-batches each device computes for one step.

    Raises:
        UsageError: the total batch is not so many times the batch of all devices.
    """
    times, rest = divmod(recipe.total_batch, recipe.batch * world)
    if rest or not times:
        raise UsageError(f"A total batch of {recipe.total_batch} is not a multiple of {recipe.batch} on each of {world}"
                         f" device{'s' * (world > 1)}: give another --batch or --total-batch.")
    return times


def fitting_batch(recipe: Recipe, world: int) -> int:
    """The largest batch of a device, at most the recipe's, that makes up its total batch on so many devices."""
    share, rest = divmod(recipe.total_batch, world)
    if rest or not share:
        raise UsageError(f"A total batch of {recipe.total_batch} cannot be shared by {world} devices: give a multiple"
                         f" of {world} as --total-batch.")
    fitting = [size for size in range(1, min(share, recipe.batch) + 1) if share % size == 0]
    even = [size for size in fitting if size % 2 == 0]  # some tasks mix samples in pairs
    return max(even or fitting)


def _shard(model: nn.Module, group: Group) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.type, (group.world,))
    for name, blocks in model.named_modules():
        if name.rpartition(".")[2] == "blocks":
            for block in blocks.children():
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> CosineLRScheduler:
    by_update = recipe.schedule == "update"
    unit = steps if by_update else 1
    return CosineLRScheduler(
        optimizer, t_initial=recipe.epochs * unit, lr_min=recipe.min_lr, warmup_t=recipe.warmup(unit),
        warmup_lr_init=recipe.warmup_lr, t_in_epochs=not by_update)
