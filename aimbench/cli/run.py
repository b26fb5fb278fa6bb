"""``aimbench run``: train a method on a dataset, evaluate it, write its record."""

from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.options import Cards, DataRoot, ResultsRoot, RunsRoot, Settings, parse_names, parse_settings

if TYPE_CHECKING:
    from aimbench.results.store import Store
    from aimbench.train.experiment import Experiment
    from aimbench.train.progress import Reporter


def run(
    method: Annotated[str, typer.Option(help="Method; see 'aimbench list methods'.")],
    dataset: Annotated[str, typer.Option(help="Dataset, name or name@variant; see 'aimbench list datasets'.")],
    backbone: Annotated[str, typer.Option(help="timm network; see 'aimbench list backbones'.")] = (
        "tf_efficientnet_lite0"
    ),
    weights: Annotated[str, typer.Option(help="auto (pretrained), none, or a state-dict file.")] = "auto",
    train: Annotated[str, typer.Option(help="What is trained: head, last (stage too) or all.")] = "head",
    preset: Annotated[str | None, typer.Option(help="Named settings of the method.")] = None,
    set_: Settings = None,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**63 - 1)] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.", show_default="20")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.", show_default="64")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of the head.", show_default="the method's, else 1e-3")
    ] = None,
    backbone_lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of the backbone.", show_default="1e-4")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the optimiser.", show_default="1e-4")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.", show_default="adamw")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="cosine, step (halves each quarter) or constant.", show_default="the method's, else cosine"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the network input, pixels.", show_default="224")
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(help="indexed, or stream: sets too large to seek in.", show_default="indexed"),
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Random crop and flip.", show_default="no")
    ] = None,
    augment_on: Annotated[
        str | None, typer.Option(help="Where: loader, or device (in batches).", show_default="loader")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.", show_default="32-true")
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="Rule that chooses the epoch.", show_default="the card's")
    ] = None,
    epg_samples: Annotated[
        int | None,
        typer.Option(help="Test images that EPG uses, a fixed subset; 0 leaves EPG out.", show_default="all"),
    ] = None,
    epg_region: Annotated[
        str, typer.Option(help="What EPG counts as the object: mask (boxes where there is none) or boxes.")
    ] = "mask",
    attributions: Annotated[
        str | None,
        typer.Option(
            help="Scored by EPG, comma-separated: gradcam, gradcam_plus_plus, input_x_gradient,"
            " integrated_gradients, smoothgrad, attention_rollout (of a ViT).",
            show_default="gradcam,input_x_gradient",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start over.")
    ] = True,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run again although the record exists.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes on each machine, a device each; they share every batch.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines, started by torchrun or SLURM.")] = 1,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Run the backbone through torch.compile; pays in long runs on a GPU.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images.", show_default="0 on a CPU, else cores - 1")
    ] = None,
    cache_gb: Annotated[float, typer.Option(min=0, max=1e6, help="Memory for decoded photographs, GB.")] = 4.0,
    log: Annotated[
        str | None, typer.Option(help="Live view: tensorboard or wandb, both extras.", show_default="none")
    ] = None,
    data: DataRoot = None,
    runs: RunsRoot = None,
    results: ResultsRoot = None,
    cards: Cards = None,
) -> None:
    """Train a method on a dataset and write its record.

    The same command again goes on from the last finished epoch if it was
    killed, and does nothing if the record exists.
    """
    from aimbench import paths
    from aimbench.cards import parse_dataset
    from aimbench.metrics.selectors import check_headline
    from aimbench.results.store import Store
    from aimbench.train.registry import check_method, get_method

    check_method(method)  # a wrong word is answered before seconds of imports
    parse_dataset(dataset, cards)
    options = {
        "train": train,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "backbone_lr": backbone_lr,
        "weight_decay": weight_decay,
        "optimizer": optimizer,
        "schedule": schedule,
        "image_size": image_size,
        "loader": loader,
        "augment": augment,
        "augment_on": augment_on,
        "precision": precision,
    }
    training = {name: value for name, value in options.items() if value is not None}
    settings = parse_settings(set_)
    method_class = get_method(method)
    method_class.configure(settings, preset)
    method_class.configure_training(training)
    if selector is not None:
        check_headline(selector)

    from aimbench.train.claim import claimed
    from aimbench.train.experiment import Experiment, Request
    from aimbench.train.live import check_view
    from aimbench.train.processes import is_first_by_environment
    from aimbench.train.progress import Reporter

    check_view(log)
    reporter = Reporter(quiet=not is_first_by_environment())
    store = Store(paths.results_root(results))
    store.check_writable()
    experiment = Experiment(
        Request(
            method=method,
            dataset=dataset,
            backbone=backbone,
            weights=weights,
            seed=seed,
            data_root=paths.data_root(data),
            runs_root=paths.runs_root(runs),
            selector=selector,
            preset=preset,
            settings=settings,
            training=training,
            epg_samples=epg_samples,
            epg_region=epg_region,
            **({} if attributions is None else {"attributions": parse_names(attributions)}),
            cards=paths.cards_root(cards),
            workers=workers,
            cache_gb=cache_gb,
            accelerator=device,
            log=log,
            devices=devices,
            nodes=nodes,
            compile=compile_,
        ),
        reporter,
    )
    with claimed(experiment.request.runs_root, experiment.id, processes=devices * nodes, nodes=nodes):
        _run_to_its_record(experiment, store, reporter, resume=resume, rerun=rerun)


def _run_to_its_record(
    experiment: "Experiment", store: "Store", reporter: "Reporter", *, resume: bool, rerun: bool
) -> None:
    from aimbench.results.summary import headline_text
    from aimbench.train.method_source import is_of_other_source
    from aimbench.train.processes import is_first_by_environment

    asked = experiment.request
    if store.exists(experiment.id) and not rerun:
        reporter.line(f"{experiment.id} is recorded already; --rerun runs it again")
        if is_of_other_source(asked.method, store.get(experiment.id).code.method_source):
            reporter.warn(f"the source of method '{asked.method}' has changed since that record was made")
        if is_first_by_environment():
            typer.echo(store.path(experiment.definition.dataset.name, experiment.id))
        return
    if experiment.is_started and resume and (experiment.is_rerun or not rerun):
        reporter.line(f"going on with {experiment.id} from its last checkpoint (--fresh starts over)")
    reporter.line(f"{experiment.id}: {asked.method} on {asked.dataset}, {asked.backbone}, seed {asked.seed}")
    result = experiment.run(fresh=not resume, rerun=rerun)
    if not is_first_by_environment():
        return
    record = result.record
    if rerun and store.exists(record.id):
        # How its settings were chosen stays true; what `probe` measured on the old weights does not.
        record = record.model_copy(update={"search": store.get(record.id).search})
    path = store.write_run(record, result.files, replace=rerun)
    experiment.end_rerun()
    reporter.line(headline_text(record))
    typer.echo(path)
