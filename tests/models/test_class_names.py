from pathlib import Path

import pytest
from timm.data.imagenet_info import ImageNetInfo

from aimbench.cards import load_card
from aimbench.errors import ConfigError
from aimbench.models.class_names import match_classes, output_names


def test_imagenets_order_is_timms() -> None:
    names = output_names(None, 1000)
    assert names == sorted(names)  # ImageNet-1k's outputs are in the order of the WordNet ids
    assert names[258] == "n02111889"  # Samoyed


@pytest.mark.parametrize(
    ("dataset", "variant"), [("imagewoof", "full"), ("imagenet100", "cmc"), ("hardimagenet", "official")]
)
def test_every_class_of_the_imagenet_subsets_is_found_by_wordnet_id(dataset: str, variant: str) -> None:
    card = load_card(dataset)
    wnids = card.variant(variant).options["class_folders"]
    classes = card.classes or wnids
    names = output_names(None, 1000)
    assert [names[i] for i in match_classes(classes, wnids, names)] == wnids


def test_names_match_by_synonym_whatever_their_spelling() -> None:
    outputs = ["Samoyed, Samoyede", "001.Black_footed_Albatross", "beagle"]
    assert match_classes(["samoyede", "Black footed albatross"], None, outputs) == [0, 1]
    # The dataset has no WordNet ids: ImageNet's names are used for the outputs.
    assert match_classes(["Samoyed", "beagle"], None, ["n02088364", "n02111889"]) == [1, 0]
    assert ImageNetInfo("imagenet-1k").label_name_to_description("n02088364") == "beagle"


@pytest.mark.parametrize(
    ("classes", "outputs", "message"),
    [
        (
            ["beagel"],
            ["beagle", "dingo"],
            "'beagel' of the dataset is none of the model's 2 classes; did you mean 'beagle'",
        ),
        (["crane"], ["crane", "Crane"], r"not one class of the model's \(outputs \[0, 1\]\)"),
        (["dingo", "warrigal"], ["dingo, warrigal", "beagle"], "'warrigal' of the dataset is not one class"),
    ],
)
def test_what_does_not_match_is_refused(classes: list[str], outputs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        match_classes(classes, None, outputs)


def test_other_outputs_need_a_file_of_their_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="7 outputs, so its classes are not ImageNet's"):
        output_names(None, 7)
    file = tmp_path / "classes.txt"
    with pytest.raises(ConfigError, match="do not exist"):
        output_names(file, 2)
    file.write_text("dingo\n\nbeagle\n")
    assert output_names(file, 2) == ["dingo", "beagle"]
    with pytest.raises(ConfigError, match="2 lines, the checkpoint's classifier has 7 outputs"):
        output_names(file, 7)
