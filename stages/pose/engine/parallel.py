"""A model over several processes: DDP or FSDP2, and its whole state wherever the parts lie."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed.checkpoint.state_dict as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pose import distributed
from pose.common.errors import PoseError
from pose.models.vit import PoseModel


def spread(model: PoseModel, kind: str, device: torch.device) -> nn.Module:
    """What is called in the model's place: itself if alone, DDP's wrapper, or itself in shards.

    FSDP replaces the parameters, so build the optimiser afterwards. Batch norms see the whole
    batch's statistics. Raises PoseError for batch norms on CPU, where torch has no such thing.
    """
    if distributed.world_size() == 1:
        return model
    _share_statistics_(model, device)
    if kind == "fsdp":
        return _shard_(model, device)
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def _shard_(model: PoseModel, device: torch.device) -> PoseModel:
    """Each block, the head, and the rest is gathered on its own when its turn comes.

    The rest as well is let go after its turn: torch keeps it for a backward, which a teacher's
    forward does not have, and the next step would see old weights.
    """
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for part in (*model.backbone.blocks, model.head, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model


def _share_statistics_(model: PoseModel, device: torch.device) -> None:
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return
    if device.type != "cuda":
        raise PoseError(
            "params.yaml: model.head = 'classic' has batch norms, which several processes share "
            "on CUDA only; unset NPROC"
        )
    model.head = nn.SyncBatchNorm.convert_sync_batchnorm(model.head)


def exchange_(network: nn.Module, now: bool) -> None:
    """Let the next backward of DDP sum gradients over processes, or keep them for a later one.

    FSDP always sums: it holds no room for whole gradients. To be called before the forward.
    """
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = now  # what its no_sync() sets


def whole(tensor: Tensor) -> Tensor:
    """A tensor without shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_weights(model: nn.Module) -> dict[str, Any]:
    """state_dict with whole tensors; all processes must call, only the first one gets them."""
    if distributed.world_size() == 1:
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return dcp.get_model_state_dict(model, options=_gathered())


def full_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by parameter name, whole; for calls and results see full_weights."""
    return dict(dcp.get_optimizer_state_dict(model, optimizer, options=_gathered()))


def restore_(
    model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any] | None
) -> None:
    """Take over "model" and "optimizer" of `saved`; only the first process needs to have it."""
    weights, moments = (saved["model"], saved["optimizer"]) if saved else ({}, {})
    many = distributed.world_size() > 1
    options = dcp.StateDictOptions(full_state_dict=many, broadcast_from_rank0=many)
    dcp.set_model_state_dict(model, weights, options=options)
    dcp.set_optimizer_state_dict(model, optimizer, moments, options=options)
    _lay_out_like_parameters_(optimizer)


def _lay_out_like_parameters_(optimizer: torch.optim.Optimizer) -> None:
    """The fused AdamW reads memory in order: moments saved in another layout must take ours."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(value)


def _gathered() -> dcp.StateDictOptions:
    return dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
