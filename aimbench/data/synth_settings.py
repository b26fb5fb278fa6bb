"""How hard the synthesised datasets are: tune the minis here, and nowhere else.

A mini is made so that the place is the easy cue and the bird the hard one.
"""

IMAGE_SIZE = (160, 140)
"""Width and height of a photograph, in pixels; one side varies by up to a tenth."""

TRAIN_PER_SPECIES = 24
"""Photographs of a species in CUB's train, from which validation is drawn too."""

TEST_PER_SPECIES = 12
"""Photographs of a species in CUB's test."""

BIRD_SCALE = (0.6, 0.9)
"""Range of a bird's length as a share of the image's width."""

BIRD_ROTATION = 15.0
"""Largest tilt of a bird, in degrees either way."""

BIRD_CONTRAST = 0.8
"""Saturation of the plumage in [0, 1]: 1 gives each species a vivid colour of its own, 0 makes all grey."""

PATTERN_CONTRAST = 0.8
"""Difference in brightness of a species' pattern from its plumage, in [0, 1]."""

HUE_JITTER = 0.02
"""Standard deviation of a bird's hue about its species' hue, in turns."""

BRIGHTNESS_JITTER = 0.10
"""Standard deviation of a bird's brightness, in [0, 1]."""

BIRD_NOISE = 3.0
"""Standard deviation of the noise on the plumage, in grey levels."""

PLACES = 12
"""Place classes of the synthesised Places validation set."""

SCENES_PER_PLACE = 24
"""Scenes of a place class in the validation set."""

SCENES_PER_CATEGORY = 60
"""Scenes of a category in the large set, of which Waterbirds takes four."""

SCENE_SIZE = (160, 140)
"""Width and height of a scene, in pixels."""

SCENE_SATURATION = 0.6
"""Saturation of the colours of a place, in [0, 1]: how strong a cue its colour is."""

SCENE_CONSISTENCY = 0.5
"""Probability that a scene has its place's own structure; else any place's, in its place's colours."""

SCENE_HUE_JITTER = 0.05
"""Standard deviation of a scene's hue about its place's hue, in turns."""

SCENE_NOISE = 20.0
"""Standard deviation of the noise on a scene, in grey levels."""

TREE_TRAIN, TREE_TEST = 24, 12
"""Images of a class in the train and the val folder of a synthesised ImageNet tree."""

TREE_SIZE = (160, 140)
"""Width and height of an image of a tree, in pixels; one side varies by up to a tenth."""

TREE_SCALE = (0.35, 0.6)
"""Range of an object's length as a share of the image's width, where the card states none."""

TREE_NOISE = 10.0
"""Standard deviation of the noise on an object, in grey levels."""

TREE_HUE_JITTER = 0.05
"""Standard deviation of an object's hue about its class' hue, in turns."""
