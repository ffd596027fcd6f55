"""The checkpoint of a model archive that anybody may have made, tried as prediction will load it.

Nothing larger than the file itself is made in memory on the way, whatever the file and the plan
say: torch.load calls what a file names, with sizes that the file says, and a plan may describe a
network of any size.
"""

import pickletools
import zipfile
from pathlib import Path

from torch import Tensor

from autoreg.errors import DataError
from autoreg.inference.weight_files import check_state
from autoreg.io.records import to_plain
from autoreg.network_plan import NetworkPlan
from autoreg.training.checkpoint import Checkpoint, load_checkpoint
from autoreg.training.model_folder import load_network

# Of what torch.load calls without executing foreign code, that which a checkpoint of autoreg
# names: views of the bytes in the file. Others (bytearray, torch.Tensor) make anything of any size.
_NEEDED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(
        f"torch {kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte", "Bool")
    ),
}
_ZIP_START = b"PK\x03\x04"
# Values of network plans that say how many modules there are, each with one tensor or more.
_COUNTS = ("depths", "time_steps", "feature_convolutions", "deformation_convolutions")


def try_weights(folder: Path, fold: str) -> None:
    """Load the weights as prediction will do, after a look at what that would cost.

    Args:
        folder: Of the model.
        fold: Its name.

    Raises:
        AutoregError: if the fold has not one checkpoint, as autoreg_export_model writes them,
            with weights that fit their plan.
    """
    found = sorted((folder / f"fold_{fold}").glob("checkpoint_*.pt"))
    if len(found) != 1:
        raise DataError(f"fold_{fold} has {len(found)} checkpoints, expected one")
    path = found[0]
    _require_plain_zip(path)
    checkpoint = load_checkpoint(path)
    if checkpoint.fold != fold or checkpoint.resume is not None:
        raise DataError(f"{path}: is not what autoreg_export_model writes for fold {fold}")
    _require_values(checkpoint, path)
    plan = checkpoint.plan
    shallow = plan.network.without_last_level()
    network = shallow if shallow and checkpoint.levels == shallow.levels else plan.network
    _require_modules(network, len(checkpoint.network), path)
    # Without memory for it.
    channels = len(plan.fixed_modalities)
    check_state(checkpoint.network, network, channels, path, "the network of its plan")
    load_network(folder, fold)


def _require_plain_zip(path: Path) -> None:
    """See that the file cannot become more than its size by being read.

    torch.save does not compress. What does not begin as a zip file, torch.load takes for a file of
    its older format, even if it ends as one.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    with zipfile.ZipFile(path) as content:
        entries = content.infolist()
        size = sum(entry.file_size for entry in entries)
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or size > path.stat().st_size or start != _ZIP_START:
            raise DataError(
                f"{path}: is compressed or of another format, which torch.save does not write; "
                "refused"
            )
        # torch finds its record whatever the case of the letters.
        pickles = [content.read(e) for e in entries if e.filename.lower().endswith(".pkl")]
    named = {
        str(argument)
        for data in pickles
        for operation, argument, _ in pickletools.genops(data)
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL")
    }
    if surplus := sorted(named - _NEEDED):
        raise DataError(
            f"{path}: holds more than plain values and tensors: "
            f"{', '.join(name.replace(' ', '.') for name in surplus)}; refused, nothing in it was "
            "executed"
        )


def _require_values(checkpoint: Checkpoint, path: Path) -> None:
    """See that these are tensors, which have their own bytes in the file.

    A tensor of any size can be a view of a few bytes, and many tensors can be views of the same;
    what computes with them or copies them needs their size.
    """
    values: list[object] = list(checkpoint.network.values())
    numbers: list[object] = [checkpoint.levels, checkpoint.epoch]
    tensors = [v for v in values if isinstance(v, Tensor) and v.device.type == "cpu"]
    if len(tensors) < len(values) or not all(isinstance(number, int) for number in numbers):
        raise DataError(f"{path}: expected tensors by name and whole numbers")
    size, most = sum(t.numel() * t.element_size() for t in tensors), path.stat().st_size
    if size > most:
        raise DataError(
            f"{path}: its tensors would be {size} bytes, more than the file ({most}); refused"
        )


def _require_modules(network: NetworkPlan, tensors: int, path: Path) -> None:
    """See that no more modules are made than the weights can be of; each takes time and memory."""
    values = to_plain(network)
    counts = [values[name] for name in _COUNTS if name in values]
    modules = sum(sum(count) if isinstance(count, list) else count for count in counts)
    if modules > tensors:
        raise DataError(
            f"{path}: its plan describes a network of {modules} modules, expected at most as many "
            f"as there are tensors ({tensors}); refused"
        )
