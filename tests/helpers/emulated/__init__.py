"""A CUDA device that is not there: its tensors say ``cuda:0`` and compute on the CPU, and refuse what CUDA refuses.

``device`` is the machine and what ``torch.cuda`` answers, ``tensors`` the tensors and what each operation refuses,
``backward`` the backward pass, ``__main__`` the command line on such a machine. What it shows and what only a GPU can
show: docs/performance.md.
"""

from helpers.emulated.device import Machine, install, installed

__all__ = ["Machine", "install", "installed"]
