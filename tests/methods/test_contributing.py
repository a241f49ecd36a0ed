import re
import sys
from pathlib import Path


def test_the_method_shown_to_contributors_works(tmp_path, monkeypatch):
    import torch

    from methods.api import Experts

    text = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "size_mean_shown.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    import size_mean_shown  # type: ignore[import-not-found]

    base = {"w": torch.ones(2, 3)}
    experts = Experts.from_state_dicts(base, {"a": {"w": torch.full((2, 3), 2.0)}, "b": {"w": torch.full((2, 3), 4.0)}})
    merged = size_mean_shown.size_mean(experts, scale=1.0)
    assert torch.allclose(merged.state_dict()["w"], torch.full((2, 3), 1 + (1 * 1 + 3 * 3) / 4))
    sys.modules.pop("size_mean_shown")
