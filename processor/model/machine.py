"""What bits depend on beside the model: the TensorFlow version and the CPU's instruction set. Written into every checkpoint."""

from pathlib import Path

INSTRUCTION_SETS = ("avx512f", "avx2", "avx", "sse4_2")


def made_by() -> dict[str, str]:
    """AVX2 and AVX-512 gave the same bits wherever they were compared, so they count as one."""
    return {"tensorflow": tensorflow_version(), "instructions": {"avx512f": "avx2"}.get(found := _instructions(), found)}


def tensorflow_version() -> str:
    from processor.model.backend import tf

    return str(tf.__version__)


def _instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        line = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return "unknown"
    flags = set(line.split())
    return next((name for name in INSTRUCTION_SETS if name in flags), "unknown")
