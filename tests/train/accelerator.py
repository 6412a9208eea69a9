"""A device that is none: tensors say that they are elsewhere, and the processor does their work.

Whole commands run on it where there is no accelerator. It refuses tensors of two devices in one operation, as
a real one does, and notes whenever the host waits for a value: a read, or a shape that depends on data.
"""

import traceback
from contextlib import contextmanager

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "elsewhere"
WAITS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_coalesce", "aten::bincount",
    "aten::unique_dim", "aten::_unique2", "aten::equal",
}  # fmt: skip
MAY_BE_MIXED = {"aten::copy_", "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations that real accelerators, too, take tensors of the host for."""


def available():
    """Whether this build of torch lets a device be written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class Accelerator(TorchDispatchMode):
    """While entered, `device` can be used; `waits` names what waited, and the line that asked."""

    def __init__(self):
        super().__init__()
        _register()
        self.device, self.waits, self.launched = torch.device(NAME, 0), [], 0
        self.doubles = set()  # operations that make numbers of double precision, which not every device has

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self)

    @contextmanager
    def watched(self):
        """Yield the list of waits, emptied, during a part of the work."""
        before, self.waits = self.waits, []
        yield self.waits
        self.waits = before + self.waits


class Elsewhere(torch.Tensor):
    """A tensor of the device; `held` has its values."""

    @staticmethod
    def __new__(cls, held):
        form = {} if held.is_sparse else {"strides": held.stride(), "storage_offset": held.storage_offset()}
        device = torch.device(NAME, 0)
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=device, **form)
        made.held = held
        return made

    @property
    def is_sparse(self):
        return self.held.is_sparse

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs, accelerator=None):
    """Run an operation on the values that are held, and say of the results that they are elsewhere."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if isinstance(x, Elsewhere)]
    there = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if not here and wanted != NAME:
        return func(*args, **kwargs)
    name = func.name()
    if here and there and name not in MAY_BE_MIXED:
        raise RuntimeError(f"{name} is given tensors of two devices")
    into_host = name == "aten::copy_" and not isinstance(args[0], Elsewhere)
    leaves = bool(here) and (wanted not in (None, NAME) or into_host)
    if accelerator is not None:
        accelerator.launched += bool(here) and not func.is_view
        if leaves or name in WAITS or (here and there and name != "aten::copy_"):
            accelerator.waits.append(f"{name} at {_asked_by()}")
    known = {id(x.held): x for x in here}
    own = pytree.tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    # derivatives of what does not depend on the input have no values, which here they must have
    func = torch.ops.aten.zeros.default if name == "aten::_efficientzerotensor" else func
    result = func(*own[0], **(own[1] | ({"device": "cpu"} if wanted else {})))
    if leaves:
        return result
    if accelerator is not None and any(
        isinstance(x, torch.Tensor) and x.dtype is torch.float64 for x in pytree.tree_leaves(result)
    ):
        accelerator.doubles.add(f"{name} at {_asked_by()}")

    def back(x):
        """Return the same tensor where an operation returns what it was given."""
        return (known[id(x)] if id(x) in known else Elsewhere(x)) if isinstance(x, torch.Tensor) else x

    return pytree.tree_map(back, result)


def _asked_by():
    frames = [f for f in traceback.extract_stack() if "/mocli/" in f.filename]
    return f"{frames[-1].filename.rpartition('/mocli/')[2]}:{frames[-1].lineno}" if frames else "a test"


class _Module(backend_registration._DummyBackendModule):
    def get_rng_state(self, device=None):
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state, device=None):
        pass


_registered = []


def _register():
    if _registered:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    # what makes a tensor from a list, for an index, does not pass through Python
    library.impl("empty_strided", _empty, "PrivateUse1")
    library.impl("_copy_from", _copy, "PrivateUse1")
    _registered.append(library)


def _empty(size, stride, *, dtype=None, **_):
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source, target, non_blocking=False):
    values, into = (x.held if isinstance(x, Elsewhere) else x for x in (source, target))
    into.copy_(values)
    return target
