"""A model over several processes (DDP or FSDP2), and its full state dict, to save and restore.

torch.distributed's checkpoint and FSDP, which import sympy, are imported where they are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pose import distributed
from pose.common.errors import PoseError
from pose.models.adapter import trained_names
from pose.models.pose_model import PoseModel


def wrap_distributed(model: PoseModel, kind: str, device: torch.device) -> nn.Module:
    """The module to call in training: the model itself, in DDP's wrapper, or sharded by FSDP.

    With one process it is the model. FSDP replaces the parameters, so build the optimiser
    afterwards. Batch norms are synchronised; raises PoseError for them on a CPU, where torch has
    no SyncBatchNorm.
    """
    if distributed.world_size() == 1:
        return model
    _sync_batch_norms_(model, device)
    if kind == "fsdp":
        return _shard_(model, device)
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def _shard_(model: PoseModel, device: torch.device) -> PoseModel:
    """Shard each block, the head, and the rest, as units that are gathered one at a time.

    The root unit is resharded after its forward too: by default torch keeps it gathered until the
    backward, which a teacher's forward does not have, and the next step would use old weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for part in (*model.backbone.blocks, model.head, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model


def _sync_batch_norms_(model: PoseModel, device: torch.device) -> None:
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return
    if device.type != "cuda":
        raise PoseError(
            "params.yaml: model.head = 'classic' has batch norms, which several processes share "
            "on CUDA only; unset NPROC"
        )
    model.head = nn.SyncBatchNorm.convert_sync_batchnorm(model.head)


def sync_gradients_(network: nn.Module, now: bool) -> None:
    """Whether DDP's next backward sums gradients over processes, or accumulates them locally.

    FSDP always sums: it has no buffer for full gradients. Call it before the forward.
    """
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = now  # what its no_sync() sets


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def full_weights(model: nn.Module) -> dict[str, Any]:
    """The full state_dict. All processes must call it; only the first one gets the tensors."""
    if distributed.world_size() == 1:
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}
    import torch.distributed.checkpoint.state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dcp.get_model_state_dict(model, options=options)


def trained_weights(model: nn.Module) -> dict[str, Any]:
    """full_weights without frozen parameters; called and returned as it is."""
    names = trained_names(model)
    return {name: tensor for name, tensor in full_weights(model).items() if name in names}


def full_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The full optimiser state by parameter name; called and returned as full_weights is.

    That of 8-bit AdamW, which every process has as a whole, is by the parameters' order.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        return optimizer.state_dict()
    import torch.distributed.checkpoint.state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(dcp.get_optimizer_state_dict(model, optimizer, options=options))


def restore_(
    model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any] | None
) -> None:
    """Load "model" and "optimizer" of `saved`, which only the first process needs to have.

    Frozen parameters keep their values.
    """
    import torch.distributed.checkpoint.state_dict as dcp

    frozen = full_weights(model) if len(trained_names(model)) < len(model.state_dict()) else {}
    weights, moments = (frozen | saved["model"], saved["optimizer"]) if saved else ({}, {})
    many = distributed.world_size() > 1
    options = dcp.StateDictOptions(full_state_dict=many, broadcast_from_rank0=many)
    dcp.set_model_state_dict(model, weights, options=options)
    if not isinstance(optimizer, torch.optim.AdamW):
        return optimizer.load_state_dict(distributed.broadcast(moments))
    dcp.set_optimizer_state_dict(model, optimizer, moments, options=options)
    _match_strides_(optimizer)


def _match_strides_(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments the memory layout of their parameters: fused AdamW reads in order."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(value)
