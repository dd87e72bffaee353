"""A model without weights, run while those of one part at a time are in memory.

The parts are the embedding, each decoder layer, the last norm and the head: the hidden states pass from one
to the next. transformers and PEFT build the modules on torch's `meta` device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.adapted import cannot_load, require_same_names
from zhuzi.model.adapter import AdapterFolder, is_whole
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder, first_line
from zhuzi.model.weights import load_tensor

if TYPE_CHECKING:
    import torch

#: The place of a parameter: its module, and its name there.
Place = tuple["torch.nn.Module", str]

#: Initialisations of PEFT's that change the base's matrices.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Part:
    """A part of a model."""

    path: str
    """Of its module."""
    tensors: tuple[str, ...]
    """Names of its tensors in a folder."""


class Skeleton:
    """The modules of a folder's model, without weights."""

    def __init__(self, folder: ModelFolder, rows: int) -> None:
        """Build the modules with so many `rows` of embedding and head.

        Raises:
            InputError: transformers cannot build it, or it does not consist of the parts named above.
        """
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        self.folder = folder
        try:
            config = AutoConfig.from_pretrained(folder.path)
            config.vocab_size = rows
            # Buffers are real: they are computed, not stored.
            with init_empty_weights(include_buffers=False):
                self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        except (OSError, ImportError):
            raise
        except Exception as error:  # of transformers or Python itself
            raise InputError(f"{folder.path}: transformers cannot load it ({first_line(error)})") from error
        self.places: dict[str, Place] = {
            f"{path}.{name}": (module, name)
            for path, module in self.model.named_modules()
            for name in module._parameters
            if module._parameters[name] is not None
        }
        layers = getattr(getattr(self.model, "model", None), "layers", ())
        paths = [
            "model.embed_tokens",
            *(f"model.layers.{i}" for i in range(len(layers))),
            "model.norm",
            "lm_head",
        ]
        self.parts = [Part(path, tuple(n for n in self.places if n.startswith(f"{path}."))) for path in paths]
        if {name for part in self.parts for name in part.tensors} != set(self.places):
            raise InputError(f"{folder.path}: only LLaMA-shaped models are merged, not {config.model_type}")
        for name, (module, attribute) in self.places.items():
            shape = tuple(module._parameters[attribute].shape)
            held = folder.tensors.get(EMBEDDING if folder.tied and name == HEAD else name)
            if held is None or (held.shape != shape and name not in (EMBEDDING, HEAD)):
                found = "not among its weights" if held is None else f"{list(held.shape)}"
                raise InputError(
                    f"{folder.path}: transformers cannot load it ({name} is {found}, config.json wants "
                    f"{list(shape)})"
                )

    def module(self, part: Part) -> torch.nn.Module:
        """The part's module; PEFT may have put a wrapper in its place."""
        module: torch.nn.Module = self.model.get_submodule(part.path)
        return module

    def drop(self, part: Part) -> None:
        """Free the part's weights."""
        for module in self.module(part).modules():
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    put((module, attribute), parameter.data.to("meta"))

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the folder, in fp32."""
        stored = EMBEDDING if self.folder.tied and name == HEAD else name
        return self.folder.read(stored).float()


class AdaptedSkeleton(Skeleton):
    """The same with an adapter of PEFT, unmerged."""

    def __init__(self, folder: ModelFolder, adapter: AdapterFolder, rows: int) -> None:
        """As above, and `InputError` if PEFT cannot load the adapter, or would leave a tensor of it out."""
        super().__init__(folder, rows)
        from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

        start = adapter.config.get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_CHANGE_THE_BASE):
            raise InputError(
                f"{adapter.path}: made with init_lora_weights {start}, which changes the base's matrices; "
                "save it as plain LoRA (path_initial_model_for_weight_conversion of save_pretrained) first"
            )
        self.adapter = adapter
        try:
            config = PeftConfig.from_pretrained(adapter.path)
            config.inference_mode = True
            config.base_model_name_or_path = None  # PEFT warns of any other name than the folder's here
            self.adapted = get_peft_model(self.model, config, low_cpu_mem_usage=True).eval()
            state = self.adapted.state_dict(keep_vars=True)
            found = get_peft_model_state_dict(self.adapted, state_dict=state, save_embedding_layers=False)
        except (OSError, ImportError):
            raise
        except Exception as error:  # of PEFT, transformers, torch or Python itself
            raise InputError(cannot_load(adapter, first_line(error))) from error
        # PEFT also saves embedding and head whole if they were adapted or resized.
        found |= {n: state[n] for n in set(adapter.tensors) - set(found) if is_whole(n) and n in state}
        require_same_names(adapter, set(found))
        names = {id(parameter): name for name, parameter in found.items()}
        # Tied modules share a parameter: it then has several places.
        self._files: dict[Place, str] = {
            (module, attribute): names[id(parameter)]
            for module in self.adapted.modules()
            for attribute, parameter in module._parameters.items()
            if id(parameter) in names
        }
        for name, parameter in found.items():
            if tuple(parameter.shape) != adapter.tensors[name].shape:
                raise InputError(
                    cannot_load(
                        adapter, f"{name} is {list(adapter.tensors[name].shape)}, not {list(parameter.shape)}"
                    )
                )

    def load(self, part: Part) -> None:
        """Give the part its weights, from the base and from the adapter, in fp32."""
        from peft.utils.other import ModulesToSaveWrapper

        own = {place: name for name, place in self.places.items()}
        copies = [
            m.original_module for m in self.module(part).modules() if isinstance(m, ModulesToSaveWrapper)
        ]
        unused = {id(module) for copy in copies for module in copy.modules()}
        for module in self.module(part).modules():
            for attribute, parameter in module._parameters.items():
                if parameter is None or parameter.device.type != "meta" or id(module) in unused:
                    continue
                place = (module, attribute)
                if (name := self._files.get(place)) is not None:
                    put(place, load_tensor(self.adapter.tensors[name].file, name).float())
                elif place in own:
                    put(place, self.read(own[place]))
                else:
                    raise InputError(cannot_load(self.adapter, f"no tensor for {part.path} {attribute}"))

    def merge(self, part: Part) -> dict[str, torch.Tensor]:
        """Merge the adapter into the part, and take its weights out: tensors by their names in a folder."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self.module(part).modules():
            if isinstance(module, BaseTunerLayer):
                try:
                    module.merge()
                except Exception as error:  # PEFT can train some adapters that it cannot merge
                    raise InputError(
                        f"{self.adapter.path}: PEFT cannot merge it ({first_line(error)})"
                    ) from error
        values = {}
        for name in part.tensors:
            path, _, attribute = name.rpartition(".")
            values[name] = _inner(self.model.get_submodule(path))._parameters[attribute].data
        return values


def put(place: Place, value: torch.Tensor) -> None:
    """Give a parameter a value."""
    import torch

    module, name = place
    module._parameters[name] = torch.nn.Parameter(value, requires_grad=False)


@contextmanager
def on(device: torch.device, module: torch.nn.Module) -> Iterator[None]:
    """With the weights of a module on a device; afterwards they are where they were."""
    held = [(parameter, parameter.data) for parameter in module.parameters()]
    for parameter, data in held:
        if data.device.type != "meta":
            parameter.data = data.to(device)
    try:
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


def _inner(module: Any) -> Any:
    """The module that has the merged weights, within PEFT's wrappers."""
    from peft.utils.other import ModulesToSaveWrapper

    while True:
        if isinstance(module, ModulesToSaveWrapper):
            module = module.modules_to_save[module.active_adapters[0]]
        elif hasattr(module, "token_adapter"):
            module = module.token_adapter
        elif hasattr(module, "get_base_layer"):
            module = module.get_base_layer()
        else:
            return module
