"""Where each shipped workflow's nodes lie on the canvas, its groups, and the note that a user reads first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Layout:
    """One workflow's canvas.

    Args:
        places: by node id.
        groups: title, box, colour.
        note: Markdown.
        note_place: the note's own box.
    """

    places: Mapping[str, Box]
    groups: tuple[tuple[str, Box, str], ...]
    note: str
    note_place: Box


MODEL, TEXT, PERSON, DRAW, MAP = "#3f789e", "#8a8", "#b58b2a", "#a1309b", "#88a"

ONE_PERSON_PLACES: Mapping[str, Box] = {
    "1": (40, 120, 330, 120),
    "14": (40, 290, 330, 200),
    "2": (40, 640, 330, 330),
    "3": (420, 640, 330, 250),
    "11": (800, 640, 260, 280),
    "12": (420, 940, 330, 60),
    "13": (1090, 640, 260, 280),
    "5": (420, 120, 370, 110),
    "6": (420, 280, 370, 110),
    "7": (420, 440, 370, 110),
    "4": (840, 120, 330, 400),
    "8": (1220, 120, 300, 270),
    "9": (1220, 440, 300, 60),
    "10": (1570, 120, 420, 430),
}
ONE_PERSON_GROUPS = (
    ("1  Model", (20, 40, 370, 520), MODEL),
    ("2  Prompt and size", (400, 40, 410, 520), TEXT),
    ("3  The person, as read from the photo", (20, 580, 1350, 440), PERSON),
    ("4  Draw", (820, 40, 1190, 520), DRAW),
)
ONE_PERSON_NOTE_PLACE = (1400, 620, 590, 360)

LAYOUTS: Mapping[str, Layout] = {
    "pidiff_mini": Layout(
        ONE_PERSON_PLACES,
        ONE_PERSON_GROUPS,
        """## PIDiff mini

Everything here comes with the pack: no download. Choose a photo with one face and queue.

- **Read the person** finds the face, aligns it and reads its W+ codes. Look at *Aligned crop* first: where that is not
the face you meant, nothing after it can be right.
- **Put the person into the model** has one strength, three for the levels of the W+ codes (coarse: pose and shape of
the head; medium: features and hair; fine: colours), start and end of its action, and presets for all of that.
- Mini draws 128 px pictures of *drawn people*. It knows forest, beach, city, room, desert and space; red, yellow,
green, blue, purple, white and black clothes; photo, painting and sketch; smiling and surprised.
- Bypass *Put the person into the model* (Ctrl-B) and queue again: the same picture without the person.
""",
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_sd15": Layout(
        ONE_PERSON_PLACES,
        ONE_PERSON_GROUPS,
        """## PIDiff with Stable Diffusion 1.5

Any SD 1.5 checkpoint serves. *PIDiff files* lists what lies in `ComfyUI/models/pidiff/`; the node's help page says
which files are needed and where their authors publish them. The pack downloads nothing.

- **Read the person** finds the face, aligns it and reads its W+ codes. Look at *Aligned crop* first.
- Too strong a likeness burns the picture: lower *strength* before CFG. To keep the prompt's composition, begin later
(*start_percent* 0.2).
""",
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_two_people": Layout(
        {
            "1": (40, 120, 330, 120),
            "8": (440, 120, 370, 110),
            "9": (440, 280, 370, 110),
            "10": (440, 440, 370, 110),
            "11": (850, 120, 280, 170),
            "12": (850, 340, 280, 170),
            "13": (1170, 120, 280, 60),
            "14": (1170, 340, 280, 110),
            "15": (1530, 120, 300, 270),
            "16": (1530, 440, 300, 60),
            "17": (1870, 120, 620, 420),
            "2": (40, 680, 330, 330),
            "4": (420, 680, 330, 250),
            "6": (800, 680, 330, 400),
            "3": (40, 1220, 330, 330),
            "5": (420, 1220, 330, 250),
            "7": (800, 1220, 330, 400),
            "18": (1230, 680, 300, 230),
            "20": (1570, 680, 500, 330),
            "19": (1230, 1080, 300, 230),
            "21": (1570, 1080, 500, 330),
        },
        (
            ("1  Model", (20, 40, 370, 230), MODEL),
            ("2  One prompt for each half of the picture", (420, 40, 1050, 530), TEXT),
            ("3  The person on the left", (20, 600, 1130, 500), PERSON),
            ("4  The person on the right", (20, 1140, 1130, 500), PERSON),
            ("5  Draw", (1510, 40, 1000, 530), DRAW),
            ("6  Where each of them acts", (1210, 600, 880, 840), MAP),
        ),
        """## Two people, no masks

Choose two photos with one face each and queue.

- Two **Apply Identity Adapter** nodes in a row, both with *place* **left to right**: the first one of the chain gets
the leftmost face, the next one the face to its right. They follow the faces while these come into being.
- It needs as many faces as people, side by side. Here each half of the picture has a prompt of its own (*Conditioning
(Set Area)*), so that there is one face in each. With a single prompt for all, let it say "two people".
- **PIDiff Localise** shows where each of them acted.

### With masks instead

For any other arrangement, such as one person above the other: leave *place* on *anywhere* and connect a mask to *mask*
of each Apply node (LoadImageMask, Solid Mask + Mask Composite, or the mask editor). A mask lies on the **whole**
picture, white where the person may be, in any size, also where prompts are regional. That works the same with Stable
Diffusion 1.5: the checkpoint's loader and *LoadPIDiff* take the place of *PIDiff mini*, the picture is 1024x512, and
each half 512x512.
""",
        (2130, 640, 520, 540),
    ),
    "pidiff_detail_face": Layout(
        {
            "1": (40, 120, 330, 120),
            "5": (440, 120, 370, 110),
            "6": (440, 280, 370, 110),
            "7": (440, 440, 370, 110),
            "8": (880, 120, 300, 270),
            "9": (880, 440, 300, 60),
            "10": (1220, 120, 330, 400),
            "2": (40, 680, 330, 330),
            "3": (420, 680, 330, 250),
            "4": (800, 680, 330, 400),
            "11": (1200, 680, 300, 230),
            "13": (1200, 960, 300, 80),
            "12": (1540, 680, 330, 400),
            "14": (1640, 120, 300, 70),
            "15": (1640, 230, 300, 270),
            "16": (1980, 120, 300, 60),
            "17": (1980, 230, 300, 170),
            "18": (2320, 120, 400, 430),
        },
        (
            ("1  Model", (20, 40, 370, 230), MODEL),
            ("2  Prompt and size", (420, 40, 410, 530), TEXT),
            ("3  A picture without the person", (860, 40, 710, 530), DRAW),
            ("4  The person, as read from the photo", (20, 600, 1130, 500), PERSON),
            ("5  Where the person would act in it", (1180, 600, 710, 500), MAP),
            ("6  The head again, with the person", (1620, 40, 1120, 530), DRAW),
        ),
        """## A person into a finished picture

Choose a photo with one face and queue.

- **PIDiff Localise** noises the finished picture again, lets the model with the person look at it, and says where the
person would act. Above *value* 0.35 that is the head: a mask.
- **Set Latent Noise Mask** lets the second KSampler draw there alone, with *denoise* 0.8: another person's head. At 0.4
it keeps what is there and works out the detail of a face that is the person's already.
- **ImageCompositeMasked** puts the head into the first picture. Outside of the mask every pixel is the first one's.

The finished picture can be any: *Load Image* and *VAE Encode* in place of the first KSampler, with a prompt that
describes it.
""",
        (1930, 640, 590, 420),
    ),
}
