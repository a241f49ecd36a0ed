"""transformers' vision models, built from ``config.json`` by the library's own classes; ``auto_map`` is never followed.

Which features a head takes differs by model: the first token (ViT), it beside the mean of the others (DINOv2), pooled
ones (Swin, ConvNeXt), a projection (CLIP). Where the heads are classifiers the library's own classification model is
run, without its last layer, so that features are what it hands to that.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.common.errors import UserError, some
from benchmark.common.files import check_folder
from benchmark.domains.vision.encoders import Encoder, configuration, lacks
from benchmark.domains.vision.encoders.names import Renamed, aligned
from benchmark.domains.vision.encoders.pixels import NORMAL, Pixels, named, pair

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PROJECTION = "visual_projection.weight"
#: Of a configuration, what says nothing of what a model computes.
BESIDE = {
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id", "num_labels",
    "architectures", "finetuning_task", "problem_type", "text_config", "_commit_hash",
}  # fmt: skip


def build(source: Path, stored: Mapping[str, Any], features: str | None) -> Encoder:
    """See :func:`benchmark.domains.vision.encoders.open_encoder`."""
    transformers = library()
    config = read_config(source, transformers)
    with quietly(transformers):
        model, head = _model(config, stored, features, transformers, source)
        names = file_names(model)
    kind, pairs = type(model).__name__, aligned(names.values(), stored)
    if not pairs and (spared := {name: there for name, there in names.items() if not name.startswith("pooler.")}):
        # A pooler may be left out where nothing reads it; then it is not run either.
        names, pairs = spared, aligned(spared.values(), stored)
        model.pooler = None  # type: ignore[assignment]
    if not pairs:
        missing = sorted(set(names.values()) - set(stored)) or list(names)
        raise UserError(
            f"{source} is no {kind}, which its config.json says: it lacks {some(missing)}; it has {some(stored)}",
            "Fetch config.json and weights again, of one model.",
        )
    ours = {name: pairs[there] for name, there in names.items()}
    read = READERS[features or _usual(model, names)]
    said = {key: value for key, value in config.to_dict().items() if key not in BESIDE}
    return Encoder(
        name=kind,
        module=Renamed(model.eval().requires_grad_(False), ours, read),
        head=head,
        pixels=_pixels(source, transformers),
        about={"library": "transformers", "class": kind, "features": read.__name__.strip("_"), "config": _plain(said)},
        library_names=ours,
    )


def _model(
    config: Any, stored: Mapping[str, Any], features: str | None, transformers: Any, source: Path
) -> tuple[nn.Module, str | None]:
    """The library's model, and where its classifier stood if it had one."""
    if features == "classifier":
        if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise UserError(
                f"{source}: transformers has no image classification model for {config.model_type}",
                "Give the heads as files, and write features: pooled, cls or mean.",
            )
        config.num_labels = 2
        model = transformers.AutoModelForImageClassification.from_config(config)
        return model, _remove_classifier(model, source)
    vision = getattr(config, "vision_config", None)
    if features == "projected" or (features is None and any(n.endswith(PROJECTION) for n in stored)):
        if vision is not None:
            vision.projection_dim = config.projection_dim
        config = vision or config
        made = getattr(transformers, f"{_family(config)}VisionModelWithProjection", None)
        if made is None:
            raise UserError(f"{source}: transformers has no projected features for {config.model_type}",
                            "Write features: pooled, cls or mean.")  # fmt: skip
        return made(config), None
    config = vision or config
    try:
        return transformers.AutoModel.from_config(config), None
    except ValueError as error:
        raise UserError(f"{source}: {error}".splitlines()[0], "Give a vision model's folder.") from None


def _family(config: Any) -> str:
    """What the names of a model's classes begin with."""
    return type(config).__name__.removesuffix("Config").removesuffix("Vision")


def _remove_classifier(model: nn.Module, source: Path) -> str:
    """Put nothing in the place of the last linear layer beside the backbone; where that stood."""
    backbone = f"{getattr(model, 'base_model_prefix', '')}."
    layers = [
        name for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and not name.startswith((backbone, "vision_model."))
    ]  # fmt: skip
    if len(layers) != 1:
        raise UserError(
            f"{source}: {type(model).__name__} has {len(layers)} classifiers ({', '.join(layers) or 'none'}); one is "
            "expected",
            "Give the heads as files, and write features: pooled, cls or mean.",
        )
    above, _, last = layers[0].rpartition(".")
    setattr(model.get_submodule(above), last, nn.Identity())
    return layers[0]


def file_names(model: nn.Module) -> dict[str, str]:
    """``{tensor: its name in files}`` as the library itself saves them: it may call them otherwise in its modules."""
    numbers = {name: torch.tensor([float(place)]) for place, name in enumerate(model.state_dict())}
    listed = list(numbers)
    with tempfile.TemporaryDirectory(prefix="symerge-") as folder:
        saved: Any = model
        try:
            saved.save_pretrained(folder, state_dict=dict(numbers), safe_serialization=True)
            files = [load_file(path) for path in Path(folder).glob("*.safetensors")]
        except Exception as error:  # a conversion that joins tensors of certain sizes
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"{type(model).__name__}: files hold other tensors than the model: {said}",
                "Save the weights under the library's own names: save_pretrained(..., save_original_format=False)",
            ) from None
    there = {listed[int(value)]: name for file in files for name, value in file.items()}
    return {name: there.get(name, name) for name in listed}


def _classifier(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images).logits.flatten(1)


def _projected(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images).image_embeds


def _pooled(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images).pooler_output.flatten(1)


def _cls(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images).last_hidden_state[:, 0]


def _mean(model: nn.Module, images: Tensor) -> Tensor:
    return model(pixel_values=images).last_hidden_state[:, 1:].mean(1)


READERS = {"classifier": _classifier, "projected": _projected, "pooled": _pooled, "cls": _cls, "mean": _mean}


def read_config(source: Path, transformers: Any) -> Any:
    said = configuration(source / "config.json")
    try:
        check_folder(source)
        return transformers.AutoConfig.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its checks of a foreign configuration raise
        remote = " It comes with code of its own, which is not run." if "auto_map" in said else ""
        line = " ".join(str(error).split()).partition(". ")[0][:300]
        raise UserError(
            f"{source}/config.json is no model of transformers {transformers.__version__}: {line}{remote}",
            "Install the version that the model was saved with, or give weights of a model that it has.",
        ) from None


def read_tokenizer(source: Path, transformers: Any) -> Any:
    """The tokenizer in a model's folder. Raises :class:`UserError`."""
    try:
        check_folder(source)
        return transformers.AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"{source}: its tokenizer cannot be read: {' '.join(str(error).split())[:200]}",
            "Put the model's tokenizer files beside its weights, or fetch them again.",
        ) from None


def _pixels(source: Path, transformers: Any) -> Pixels | None:
    """What the model's own processor does, None where there is none beside it."""
    if not any((source / name).is_file() for name in PROCESSORS):
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(source), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(
            f"{source}: its image processor cannot be read: {' '.join(str(error).split())[:300]}",
            "Mend or remove preprocessor_config.json, and write preprocessing: {size: ..., mean: ..., std: ...}",
        ) from None
    return of_processor(processor, source)


def of_processor(processor: Any, source: Path) -> Pixels:
    """The steps of one of transformers' image processors. Raises :class:`UserError` for those that are not known."""

    def say(key: str, default: Any = None) -> Any:
        value = getattr(processor, key, None)
        return default if value is None else value

    if say("do_rescale", True) and abs(float(say("rescale_factor", NORMAL)) - NORMAL) > 1e-6:
        raise UserError(
            f"{source}: pixels are scaled by {processor.rescale_factor}, known is 1/255",
            "Write preprocessing: {size: ..., mean: ..., std: ...}",
        )
    size, crop = _numbers(say("size")), _numbers(say("crop_size"))
    short, exact = size.get("shortest_edge"), ((size["height"], size["width"]) if "height" in size else None)
    cropped = (crop["height"], crop["width"]) if "height" in crop else None
    resize: int | None
    if (share := say("crop_pct")) and short:  # ConvNeXt's own rule
        cropped, resize = (short, short), int(short / share) if short < 384 else None
    elif not say("do_resize", True) or (short is None and exact is None):
        raise UserError(
            f"{source}: its processor does not say to which size pictures are brought",
            "Write preprocessing: {size: 224}, and what else is meant.",
        )
    elif short is not None:
        resize = short
        cropped = cropped if say("do_center_crop", False) else None
        if cropped is None:
            cropped = (short, short)
    else:
        assert exact is not None
        resize = None
        if say("do_center_crop", False) and cropped is not None and cropped != exact:
            resize, exact = min(exact), cropped
        cropped = exact
    normal = say("do_normalize", True)
    mean, std = (say("image_mean"), say("image_std")) if normal else ((0.0,) * 3, (1.0,) * 3)
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    return Pixels(pair(cropped), resize, mean, std, named(say("resample", 3)), first=True)


def _numbers(size: Any) -> dict[str, int]:
    """A size of a processor as ``{height, width}`` or ``{shortest_edge}``."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: int(value) for key, value in dict(size).items() if value is not None}


def _usual(model: nn.Module, names: Mapping[str, str]) -> str:
    """Which of its outputs a model without a classifier is asked for; ``names``: of the tensors that there are."""
    if PROJECTION in names:
        return "projected"
    pooler = [name for name in model.state_dict() if name.startswith("pooler.")]
    return "pooled" if all(name in names for name in pooler) else "cls"


def _plain(value: Any) -> Any:
    """What JSON holds of a configuration."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if key not in BESIDE}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise lacks("transformers", error, "'.[glue]', or transformers") from None
    return transformers


@contextlib.contextmanager
def quietly(transformers: Any) -> Iterator[None]:
    """No report of weights that were not set, no progress bar, and torch's generator as it was."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
