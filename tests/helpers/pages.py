"""A page of boards with every kind of row."""

from __future__ import annotations

from helpers.records import make_record, make_spec

HOSTILE = '</script><script>document.title="run"</script><img src=x onerror="document.title=\'run\'">'


def some_records(hostile: str = "") -> list:
    expert = make_record("individual", accuracy=0.9)
    expert.method.title = f"Experts {hostile}"
    larger = make_record("x").cost.model_copy(update={"storage_bytes": 9_000_000})
    vision = ["SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD"]
    full = dict(suite="vision-8", backbone="ViT-B-32", family="tall")
    return [
        make_record("pretrained", accuracy=0.5),
        expert,
        make_record("ties", accuracy=0.7),
        make_record("emr", accuracy=0.8, cost=larger),
        *(make_record("symerge", seed=seed, accuracy=0.85, access=["unlabelled test"]) for seed in range(5)),
        make_record("fisher", accuracy=0.6, access=["labelled train"]),
        *(
            make_record(name, tasks=vision, suite_tasks=vision, accuracy=level, spec=make_spec(name, **full))
            for name, level in (("individual", 0.92), ("tsv_m", 0.85), ("iso_c", 0.6))
        ),
    ]
