"""Compiles a model: makes the optimizer, the loss and the metrics that the parameters name.

Each is a class of Keras, of a package that adds to Keras, or of the project, with the arguments
that the recipe has; see `recipe/registry.py`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.basics.errors import BadInput
from repro.basics.text import said_by
from repro.data import structure
from repro.data.dataset import Parts
from repro.recipe import catalogue, registry
from repro.recipe.parameters import Losses, Metrics, Named, Optimizer, Parameters, Training
from repro.recipe.project import Project
from repro.run import faults, targets

KINDS = (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric)
"""What trains and measures a model."""
CORRECTED = {
    keras.optimizers.Adam: "beta_2",
    keras.optimizers.Nadam: "beta_2",
    keras.optimizers.Lamb: "beta_2",
    keras.optimizers.ScheduleFreeAdamW: "beta_2",
    keras.optimizers.Muon: "adam_beta_2",
}
"""The optimizers whose steps have one minus this argument in them."""


def make(project: Project, kind: str, key: str, one: Named, **more: Any) -> Any:
    """Makes an object of Keras or of the project.

    A function of the project that is a loss or a metric is returned as it is.

    Args:
        kind: one of `registry.KINDS`.
        key: the parameter that names the object, for messages.
        more: arguments that do not stand beside its name in the recipe.

    Raises:
        BadInput: the project has no such class, or it refuses its arguments.
    """
    if one.name == registry.ACCURACY:
        return one.name
    target = _found(project, kind, key, one.name)
    if inspect.isfunction(target) and [*inspect.signature(target).parameters][:1] == ["y_true"]:
        return target
    arguments = one.arguments | more
    if one.called and kind in ("losses", "metrics"):
        arguments["name"] = one.called
    with faults.calling(one.name):
        try:
            return target(**arguments)
        except (TypeError, ValueError, ImportError) as error:
            raise BadInput(f"{key}: {one.name} refuses its arguments: {said_by(error)}") from None


def _found(project: Project, kind: str, key: str, name: str) -> Any:
    """The class or the function that a name means."""
    module, colon, attribute = name.rpartition(":")
    if not colon:
        return getattr(importlib.import_module(f"keras.{catalogue.PLACES[kind][0]}"), name)
    if module.partition(".")[0] in catalogue.OTHERS:
        return getattr(importlib.import_module(module), attribute)
    return getattr(project.module(module), attribute)


def optimizer(project: Project, asked: Optimizer) -> Any:
    """Makes the optimizer, with its schedule and the library's own kernel if they are asked for."""
    rate: Any = asked.learning_rate
    if asked.schedule is not None:
        starts = {} if rate is None else {registry.STARTS: rate}
        rate = make(project, "schedules", "optimizer.schedule", asked.schedule, **starts)
    given = {} if rate is None else {"learning_rate": rate}
    if asked.use_ema:
        given["use_ema"] = True
    made = make(project, "optimizers", "optimizer", asked, **given)
    if not isinstance(made, keras.optimizers.Optimizer):
        raise BadInput(
            f"optimizer.name: expected what makes an optimizer of Keras; {asked.name} made "
            f"{type(made).__name__}"
        )
    if asked.fused:
        backends.current().fuse(made)
    return made


def losses(project: Project, asked: Losses | None, samples: Parts) -> Any:
    """Returns the losses in the form that `compile` takes; None where the model has its own.

    Raises:
        BadInput: there is not one for each output.
    """
    if asked is None:
        return None
    if isinstance(asked, dict):
        names = _outputs(samples, "training.loss", asked)
        for name in names:
            if name not in asked:
                raise BadInput(
                    f"training.loss: expected one for each of the outputs {', '.join(names)}; "
                    f"there is none for {name}"
                )

    def made(name: str, _: np.ndarray) -> Any:
        return make(project, "losses", "training.loss", targets.of_output(asked, name))

    return _for_each(samples, made)


def weights(asked: dict[str, float] | None, samples: Parts) -> Any:
    """Returns the weights of the losses in the form that `compile` takes.

    Raises:
        BadInput: there is not one for each output.
    """
    if asked is None:
        return None
    for name in _outputs(samples, "training.loss_weights", asked):
        if name not in asked:
            raise BadInput(f"training.loss_weights: expected one for each output; {name} has none")
    return _for_each(samples, lambda name, _: targets.of_output(asked, name))


def metrics(project: Project, asked: Metrics, samples: Parts) -> Any:
    """Returns the metrics in the form that `compile` takes.

    Raises:
        BadInput: some are for an output that does not exist.
    """
    if isinstance(asked, dict):
        _outputs(samples, "training.metrics", asked)
    if not asked:
        return None

    def made(name: str, _: np.ndarray) -> list[Any]:
        some = targets.of_output(asked, name)
        return [make(project, "metrics", "training.metrics", one) for one in some]

    return _for_each(samples, made)


def _outputs(samples: Parts, key: str, asked: dict[str, Any]) -> list[str]:
    """The names of the outputs, which are those of the targets.

    Raises:
        BadInput: there is only one output, which has no name, or none of a name that is asked for.
    """
    flat = structure.flat("y", samples.train.targets())
    if "y" in flat:
        raise BadInput(f"{key}: expected no dict, since y is one array; got {sorted(asked)}")
    names = [name.removeprefix("y/") for name in flat]
    for name in asked:
        if name not in names:
            raise BadInput(f"{key}: expected names among {', '.join(names)}, as y has; got {name}")
    return names


def _for_each(samples: Parts, make: Callable[[str, np.ndarray], Any]) -> Any:
    """What Keras takes for each output: one value, or a structure of them as the targets are.

    `make` gets the flat name of an array of targets, and the array.
    """
    return structure.like(samples.train.targets(), make, "y")


def compile_model(model: Any, parameters: Parameters, samples: Parts, project: Project) -> None:
    """Compiles a model with the optimizer, the loss and the metrics of the parameters.

    Raises:
        BadInput: `training.loss` or `training.metrics` does not fit the model's own methods.
    """
    asked, training = parameters.optimizer, parameters.training
    if asked is None:
        raise BadInput(
            "optimizer: expected a group with a `name`, got null: the model does not come compiled "
            "out of its build()"
        )
    _own_methods(model, parameters.model.name, training, samples)
    # Our own loop compiles the steps, as `training.jit_compile` says. Keras's own functions are
    # not compiled, except on JAX, which would otherwise run them operation by operation.
    model.compile(
        optimizer=optimizer(project, asked),
        loss=losses(project, training.loss, samples),
        loss_weights=weights(training.loss_weights, samples),
        metrics=metrics(project, training.metrics, samples),
        weighted_metrics=None,  # A `compile` of KerasHub's would add some that nobody asked for.
        jit_compile=parameters.backend == "jax",
    )


def moves(model: Any) -> None:
    """Checks that an optimizer which needs `1 - beta_2` has it in the type of the weights.

    In bfloat16, 0.999 is 1. Each step is then zero (Adam, Lamb, Muon) or not a number (Nadam,
    ScheduleFreeAdamW), as measured with Keras 3.15. PyTorch's fused kernel does not round it.

    Raises:
        BadInput: `beta_2` is 1 in the type of a weight.
    """
    argument = next((a for kind, a in CORRECTED.items() if isinstance(model.optimizer, kind)), None)
    fused_on_torch = "_parallel_update_step" in vars(model.optimizer)
    if argument is None or fused_on_torch:
        return
    beta = getattr(model.optimizer, argument)
    # Muon makes Adam's steps on some of the weights alone.
    concerns = getattr(model.optimizer, "_should_use_adamw", lambda variable: True)
    for variable in filter(concerns, model.trainable_variables):
        kind = keras.backend.standardize_dtype(variable.dtype)
        if beta < 1 <= float(np.asarray(beta).astype(kind)):
            raise BadInput(
                f"optimizer.{argument}: {beta} is 1 in {kind}, the type of the weight "
                f"{variable.path}, so its steps would be zero or not a number; 0.95 would do, or "
                "weights of float32 with training.dtype=mixed_bfloat16"
            )


def as_it_came(model: Any, parameters: Parameters) -> None:
    """Checks that `params.yaml` says nothing of what trains a model that came compiled.

    Raises:
        BadInput: it says something, although the model decides.
    """
    training = parameters.training
    said = {
        "optimizer": parameters.optimizer and parameters.optimizer.name,
        "training.loss": training.loss and "a loss",
        "training.loss_weights": training.loss_weights,
        "training.metrics": training.metrics and "some",
    }
    for key, value in said.items():
        if value:
            expected = "[]" if key == "training.metrics" else "null"
            raise BadInput(
                f"{key}: expected {expected}, got {value}: {parameters.model.name} comes compiled "
                "out of its build(), with its own optimizer, loss and metrics; the recipe will "
                "have them"
            )


def has_own(model: Any) -> bool:
    """Whether a model has a `compile` of its own."""
    own: bool = type(model).compile is not keras.Model.compile
    return own


def found(model: Any, given: bool) -> dict[str, Any]:
    """Returns what trains a model that came compiled: each optimizer, loss and metric it holds.

    Args:
        given: whether `compile` was given an optimizer. If not, Keras has set one that a model with
            steps of its own does not use.

    Returns:
        By the name of the attribute that holds it, or of the argument of `compile`: the name of its
        class and its configuration, as JSON has them.
    """
    held = {
        name: value
        for name, value in vars(model).items()
        # Keras itself puts functions where a method of the class was.
        if not name.startswith("_") and not inspect.isfunction(getattr(type(model), name, None))
        if isinstance(value, KINDS) or inspect.isfunction(value)
    }
    if not given:
        held.pop("optimizer", None)
    arguments = {
        "loss": getattr(model._compile_loss, "_user_loss", None),
        "loss_weights": getattr(model._compile_loss, "_user_loss_weights", None),
        "metrics": getattr(model._compile_metrics, "_user_metrics", None),
    }
    told = {name: _told(value) for name, value in {**held, **arguments}.items()}
    return {name: value for name, value in told.items() if value is not None}


def _told(value: Any) -> Any:
    """What an object of Keras is, as JSON has it; None where it is nothing that trains."""
    if isinstance(value, KINDS):
        config = _plain(value.get_config())
        return {"called": config.pop("name", None), "name": type(value).__name__, **config}
    if isinstance(value, str | float | int) and not isinstance(value, bool):
        return value
    if isinstance(value, dict):
        inner = {str(key): _told(one) for key, one in value.items()}
        return {key: one for key, one in inner.items() if one is not None} or None
    if isinstance(value, list | tuple):
        return [one for one in map(_told, value) if one is not None] or None
    return f"{value.__module__}:{value.__qualname__}" if inspect.isfunction(value) else None


def _plain(value: Any) -> Any:
    """A configuration, with each object in it as its class's name and configuration."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _own_methods(model: Any, name: str, training: Training, samples: Parts) -> None:
    """Checks that loss and metrics fit the methods that the model itself has.

    Raises:
        BadInput: there is no loss, or there are metrics that nothing would compute.
    """
    own = type(model).compute_loss is not keras.Model.compute_loss or hasattr(model, "learn")
    if training.loss is not None and not structure.flat("y", samples.train.targets()):
        raise BadInput("training.loss: expected null, since the data have no targets (y is None)")
    if training.loss is None and not own:
        raise BadInput(
            "training.loss: expected the name of a loss, such as sparse_categorical_crossentropy, "
            f"got null: {name} has no loss of its own"
        )
    if training.metrics and hasattr(model, "learn"):
        raise BadInput(
            "training.metrics: expected [], since a model with a `learn` of its own measures in "
            "`judge`"
        )
