"""Run an ONNX graph from the standard input once, with limits; a script of its own, see graphs.py.

It imports nothing of steerlab. Exit status 3: onnxruntime said what is wrong, on the standard error.
"""

import sys

import numpy as np
import onnxruntime as ort

_SECONDS = 4  # of computing, and one more for every 10 MB of the file
_BYTES = 2**29  # of memory, and eight times the size of the file


def main() -> None:
    """Prepare and run the graph."""
    data = sys.stdin.buffer.read()
    _limit(len(data))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feeds = {i.name: _zeros(i.type, i.shape) for i in session.get_inputs()}
    except MemoryError:
        sys.exit(4)
    except Exception as error:  # noqa: BLE001 - onnxruntime's share no other base class
        text = str(error).partition("\n")[0]
        print(text, file=sys.stderr)
        sys.exit(4 if "alloc" in text.lower() else 3)
    try:
        session.run(None, feeds)
    except Exception as error:  # noqa: BLE001 - zeros may be no sensible input
        if "alloc" in str(error).lower() or isinstance(error, MemoryError):
            sys.exit(4)


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows; there the caller's clock is the only limit
        return
    seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + _SECONDS + size // 10**7
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        most = 1024 * used + _BYTES + 8 * size
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    except (OSError, StopIteration, ValueError):
        return


def _zeros(kind: str, shape: list[int | str | None]) -> np.ndarray:
    names = {"float": "float32", "double": "float64", "string": "str"}
    name = kind.removeprefix("tensor(").removesuffix(")")
    sizes = [n if isinstance(n, int) and n > 0 else 1 for n in shape]
    return np.zeros(sizes, names.get(name, name))


if __name__ == "__main__":
    main()
