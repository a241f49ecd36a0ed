"""What of a merge's trace a record keeps."""

import torch

from benchmark.harness import recording


def test_a_record_holds_so_many_numbers_of_a_trace_and_no_more(monkeypatch):
    monkeypatch.setattr(recording, "ROOM", 10)
    trace = {
        "losses": torch.ones(500),
        "coefficients": torch.ones(2, 4),
        "mask/a": torch.ones(3),
        "mask/b": torch.ones(2),
    }
    kept = recording.summary({**trace, "updates": 3, "raw_coefficients": torch.ones(1)})
    assert kept["coefficients"] == [[1.0] * 4] * 2 and kept["mask/b"] == [[1.0, 1.0]]
    assert "mask/a" not in kept and "raw_coefficients" not in kept, "no room for three more numbers"
    assert len(kept["losses"]) == 100 and kept["updates"] == 3
