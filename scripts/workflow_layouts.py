"""The canvas of each shipped workflow: positions of nodes, groups and the note, and nodes that are switched off.

And the subgraph blueprints: parts of these workflows as one node each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Layout:
    """One workflow's canvas.

    Args:
        places: by node id.
        groups: title, box, colour.
        note_place: the box of the note, whose text is in workflow_notes/.
        muted: nodes in the queue's format that are in the graph only, switched off until the user needs them.
    """

    places: Mapping[str, Box]
    groups: tuple[tuple[str, Box, str], ...]
    note_place: Box
    muted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Blueprint:
    """A part of a workflow as one node, in subgraphs/.

    Args:
        workflow: name in workflows/api/.
        inside: ids of its nodes. What links them to the others becomes the inputs, in this order.
        outputs: node id and slot of each output.
        widgets: node id and name of each widget that is shown on the node itself.
        description: shown in the node library.
        search_aliases: what else finds it there.
        settings: node id -> widgets that do not have the workflow's values.
    """

    workflow: str
    inside: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    widgets: tuple[tuple[str, str], ...]
    description: str
    search_aliases: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# Files of the loaders, for ComfyUI's dialogue about missing models: name -> address and folder in models/.
MODEL_FILES: Mapping[str, tuple[str, str]] = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "checkpoints",
    ),
    "Hyper-SD15-8steps-lora.safetensors": (
        "https://huggingface.co/ByteDance/Hyper-SD/resolve/main/Hyper-SD15-8steps-lora.safetensors",
        "loras",
    ),
    "MoXinV1.safetensors": (
        "https://civitai.com/api/download/models/14856?type=Model&format=SafeTensor&size=full&fp=fp16",
        "loras",
    ),
    "control_v11p_sd15_canny_fp16.safetensors": (
        "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/control_v11p_sd15_canny_fp16.safetensors",
        "controlnet",
    ),
    "qwen_image_edit_2509_fp8_e4m3fn.safetensors": (
        "https://huggingface.co/Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors",
        "diffusion_models",
    ),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": (
        "https://huggingface.co/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "text_encoders",
    ),
    "qwen_image_vae.safetensors": (
        "https://huggingface.co/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/vae/qwen_image_vae.safetensors",
        "vae",
    ),
}

MODEL, TEXT, PERSON, DRAW, MAP = "#3f789e", "#8a8", "#b58b2a", "#a1309b", "#88a"

# Most workflows have these nodes in one row, from the model to the picture, and below it the photo and its codes.
ROW: Mapping[str, Box] = {
    "model": (40, 120, 330, 120),
    "positive": (440, 120, 370, 110),
    "negative": (440, 280, 370, 110),
    "size": (440, 440, 370, 110),
    "apply": (860, 120, 330, 400),
    "sampler": (1240, 120, 300, 270),
    "decode": (1240, 440, 300, 60),
    "picture": (1590, 120, 420, 430),
    "photo": (40, 680, 330, 330),
    "encode": (420, 680, 330, 560),
}
MODEL_GROUP = ("1  Model", (20, 40, 370, 230), MODEL)
TEXT_GROUP = ("2  Prompt and size", (420, 40, 410, 530), TEXT)
PERSON_GROUP = ("3  The person, as read from the photo", (20, 600, 770, 730), PERSON)
DRAW_BOX = (840, 40, 1190, 530)


def row(**node_ids: str) -> dict[str, Box]:
    """The places of these nodes, by their role in ROW."""
    return {node_id: ROW[role] for role, node_id in node_ids.items()}


ONE_PERSON_PLACES: Mapping[str, Box] = {
    "1": (40, 120, 330, 120),
    "14": (40, 290, 330, 200),
    "2": (40, 640, 330, 330),
    "3": (420, 640, 330, 560),
    "11": (800, 640, 260, 280),
    "12": (800, 980, 330, 320),
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
    ("3  The person, as read from the photo", (20, 580, 1350, 740), PERSON),
    ("4  Draw", (820, 40, 1190, 520), DRAW),
)
ONE_PERSON_NOTE_PLACE = (1400, 620, 590, 360)
# With a LoRA: the checkpoint in a column of its own.
LORA_PLACES: Mapping[str, Box] = {
    **ONE_PERSON_PLACES,
    "1": (-310, 120, 330, 120),
    "15": (40, 120, 330, 130),
    "14": (40, 330, 330, 200),
}
LORA_GROUPS = (("1  Model", (-330, 40, 720, 520), MODEL), *ONE_PERSON_GROUPS[1:])

LAYOUTS: Mapping[str, Layout] = {
    "pidiff_mini": Layout(
        ONE_PERSON_PLACES,
        ONE_PERSON_GROUPS,
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_sd15": Layout(
        ONE_PERSON_PLACES,
        ONE_PERSON_GROUPS,
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_few_steps": Layout(
        LORA_PLACES,
        LORA_GROUPS,
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_tune_mini": Layout(
        {
            **row(model="1", positive="5", negative="6", size="7", apply="4", sampler="8", decode="9", picture="10"),
            **row(photo="2", encode="3"),
            "11": (420, 1290, 330, 280),
            "12": (860, 680, 330, 110),
            "13": (860, 840, 330, 420),
            "14": (1240, 840, 330, 90),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            ("3  The photos", (20, 600, 770, 990), PERSON),
            ("4  Train on them", (840, 600, 750, 770), MAP),
            ("5  Draw", DRAW_BOX, DRAW),
        ),
        (1640, 640, 590, 420),
    ),
    "pidiff_edit": Layout(
        {
            **row(model="1", positive="8", negative="9", size="10", apply="7", sampler="11", decode="12", picture="13"),
            **row(photo="2", encode="3"),
            "4": (40, 1290, 330, 330),
            "5": (420, 1290, 330, 560),
            "6": (860, 680, 560, 1010),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            ("3  The person, and another one to mix in", (20, 600, 750, 1270), PERSON),
            ("4  Edit", (840, 600, 600, 1110), MAP),
            ("5  Draw", DRAW_BOX, DRAW),
        ),
        (1490, 640, 520, 420),
    ),
    "pidiff_paste": Layout(
        {
            "1": (40, 120, 330, 120),
            "2": (40, 300, 330, 330),
            "3": (440, 120, 330, 560),
            "4": (840, 120, 560, 1010),
            "5": (1470, 120, 400, 560),
            "6": (1940, 120, 520, 560),
        },
        (
            ("1  Model and photo", (20, 40, 370, 610), MODEL),
            ("2  The person", (420, 40, 370, 660), PERSON),
            ("3  Edit", (820, 40, 600, 1110), MAP),
            ("4  Back into the photo", (1450, 40, 1030, 660), DRAW),
        ),
        (1470, 760, 620, 400),
    ),
    "pidiff_best_of_eight": Layout(
        {
            **row(model="1", positive="5", negative="6", size="7", apply="4", sampler="8", decode="9"),
            **row(photo="2", encode="3"),
            "10": (860, 680, 500, 620),
            "11": (1420, 680, 300, 110),
            "12": (1420, 850, 420, 430),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            PERSON_GROUP,
            ("4  Draw eight", (840, 40, 730, 530), DRAW),
            ("5  Keep the most similar", (840, 600, 1020, 730), MAP),
        ),
        (1640, 60, 560, 400),
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
            "4": (420, 680, 330, 560),
            "6": (800, 680, 330, 400),
            "3": (40, 1370, 330, 330),
            "5": (420, 1370, 330, 560),
            "7": (800, 1370, 330, 400),
            "18": (1230, 680, 300, 520),
            "20": (1570, 680, 500, 330),
            "19": (1230, 1300, 300, 520),
            "21": (1570, 1300, 500, 330),
        },
        (
            ("1  Model", (20, 40, 370, 230), MODEL),
            ("2  One prompt for each half of the picture", (420, 40, 1050, 530), TEXT),
            ("3  The person on the left", (20, 600, 1130, 660), PERSON),
            ("4  The person on the right", (20, 1290, 1130, 660), PERSON),
            ("5  Draw", (1510, 40, 1000, 530), DRAW),
            ("6  Where each of them acts", (1210, 600, 880, 1240), MAP),
        ),
        (2130, 640, 520, 540),
    ),
    "pidiff_detail_face": Layout(
        {
            **row(model="1", positive="5", negative="6", size="7", photo="2", encode="3"),
            "8": (880, 120, 300, 270),
            "9": (880, 440, 300, 60),
            "10": (1220, 120, 330, 400),
            "4": (800, 680, 330, 400),
            "11": (1200, 680, 300, 480),
            "13": (1200, 1200, 300, 80),
            "12": (1540, 680, 330, 400),
            "14": (1640, 120, 300, 70),
            "15": (1640, 230, 300, 270),
            "16": (1980, 120, 300, 60),
            "17": (1980, 230, 300, 170),
            "18": (2320, 120, 400, 430),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            ("3  A picture without the person", (860, 40, 710, 530), DRAW),
            ("4  The person, as read from the photo", (20, 600, 1130, 660), PERSON),
            ("5  Where the person would act in it", (1180, 600, 710, 700), MAP),
            ("6  The head again, with the person", (1620, 40, 1120, 530), DRAW),
        ),
        (1930, 640, 590, 420),
    ),
    "pidiff_expression_sheet": Layout(
        {
            **row(model="1", positive="5", negative="6", size="7", photo="2", encode="3"),
            "4": (860, 120, 360, 720),
            "10": (1290, 120, 860, 720),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            PERSON_GROUP,
            ("4  One picture for each expression and amount", (840, 40, 1330, 820), DRAW),
        ),
        (860, 920, 590, 360),
    ),
    "pidiff_average": Layout(
        {
            **row(model="1", positive="12", negative="13", size="14"),
            **row(apply="11", sampler="15", decode="16", picture="17"),
            "2": (40, 680, 330, 330),
            "3": (40, 1060, 330, 330),
            "4": (420, 680, 330, 60),
            "5": (420, 800, 330, 560),
            "6": (800, 680, 330, 300),
            "7": (1170, 680, 330, 300),
            "8": (1540, 680, 330, 300),
            "9": (800, 1030, 330, 330),
            "10": (1170, 1030, 330, 330),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            ("3  The photos of one person", (20, 600, 750, 810), PERSON),
            ("4  Their average", (780, 600, 1110, 810), MAP),
            ("5  Draw", DRAW_BOX, DRAW),
        ),
        (1940, 640, 560, 400),
    ),
    "pidiff_mix_two_people": Layout(
        {
            **row(
                model="1", positive="10", negative="11", size="12", apply="9", sampler="13", decode="14", picture="15"
            ),
            **row(photo="2", encode="3"),
            "4": (40, 1290, 330, 330),
            "5": (420, 1290, 330, 560),
            "6": (860, 680, 330, 110),
            "7": (860, 850, 330, 330),
            "8": (1230, 680, 560, 500),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            ("3  The two people", (20, 600, 750, 1270), PERSON),
            ("4  From one to the other", (840, 600, 970, 600), MAP),
            ("5  Draw", DRAW_BOX, DRAW),
        ),
        (860, 1260, 590, 380),
    ),
    "pidiff_save_person": Layout(
        {
            **row(model="1", positive="7", negative="8", size="9", apply="6", sampler="10", decode="11", picture="12"),
            **row(photo="2", encode="3"),
            "4": (860, 680, 420, 180),
            "5": (860, 920, 420, 330),
            "13": (1360, 680, 330, 110),
            "14": (1730, 680, 330, 400),
            "15": (2100, 680, 300, 270),
            "16": (2100, 1000, 300, 60),
            "17": (2440, 680, 420, 430),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            PERSON_GROUP,
            ("4  Save the person", (840, 600, 460, 670), MAP),
            ("5  Draw", DRAW_BOX, DRAW),
            ("6  A saved person, without the photo (switched off)", (1340, 600, 1540, 530), PERSON),
        ),
        (2100, 60, 590, 440),
        muted={
            "13": {
                "class_type": "PIDiffLoadCodes",
                "_meta": {"title": "A saved person"},
                "inputs": {"file": "pidiff/person_00001_.safetensors [output]", "kind": "absolute"},
            },
            "14": {
                "class_type": "ApplyIdentityAdapter",
                "_meta": {"title": "Put the saved person into the model"},
                "inputs": {"model": ["1", 0], "pidiff_model": ["1", 3], "wplus": ["13", 0]},
            },
            "15": {
                "class_type": "KSampler",
                "_meta": {"title": "KSampler"},
                "inputs": {
                    "model": ["14", 0],
                    "seed": 0,
                    "steps": 20,
                    "cfg": 3.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "positive": ["7", 0],
                    "negative": ["8", 0],
                    "latent_image": ["9", 0],
                    "denoise": 1.0,
                },
            },
            "16": {
                "class_type": "VAEDecode",
                "_meta": {"title": "VAE Decode"},
                "inputs": {"samples": ["15", 0], "vae": ["1", 2]},
            },
            "17": {
                "class_type": "SaveImage",
                "_meta": {"title": "The picture of the saved person"},
                "inputs": {"images": ["16", 0], "filename_prefix": "PIDiff"},
            },
        },
    ),
    "pidiff_inpaint": Layout(
        {
            **row(
                model="1", positive="11", negative="12", apply="10", sampler="13", decode="14", photo="2", encode="3"
            ),
            "4": (40, 1440, 330, 330),
            "5": (420, 1440, 330, 560),
            "7": (860, 680, 330, 170),
            "8": (860, 900, 330, 60),
            "6": (860, 1010, 330, 110),
            "9": (860, 1170, 330, 60),
            "18": (1230, 680, 330, 330),
            "17": (1230, 1060, 330, 60),
            "15": (1590, 120, 300, 170),
            "16": (1930, 120, 420, 430),
        },
        (
            MODEL_GROUP,
            ("2  Prompt", (420, 40, 410, 370), TEXT),
            PERSON_GROUP,
            ("4  The picture to change", (20, 1360, 770, 660), MAP),
            ("5  The part to draw", (840, 600, 740, 650), MAP),
            ("6  Draw", (840, 40, 1530, 530), DRAW),
        ),
        (1640, 640, 590, 480),
    ),
    "pidiff_person_mask": Layout(
        {
            **row(model="1", positive="5", negative="6", size="7", apply="4", sampler="8", decode="9"),
            **row(photo="2", encode="3"),
            "10": (860, 680, 330, 480),
            "12": (860, 1210, 330, 60),
            "11": (1230, 680, 330, 480),
            "16": (1230, 1210, 330, 60),
            "17": (1600, 680, 330, 480),
            "13": (1620, 120, 300, 100),
            "14": (1620, 280, 300, 170),
            "15": (1960, 120, 420, 430),
        },
        (
            MODEL_GROUP,
            TEXT_GROUP,
            PERSON_GROUP,
            ("4  Draw", (840, 40, 720, 530), DRAW),
            ("5  Where the person is", (840, 600, 1110, 690), MAP),
            ("6  Use the mask", (1600, 40, 800, 530), DRAW),
        ),
        (1990, 640, 560, 420),
    ),
    "pidiff_lora": Layout(
        LORA_PLACES,
        LORA_GROUPS,
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_controlnet": Layout(
        {
            **ONE_PERSON_PLACES,
            "15": (40, 1440, 330, 330),
            "16": (420, 1440, 330, 110),
            "18": (420, 1610, 330, 60),
            "17": (800, 1440, 330, 330),
            "19": (1180, 1440, 370, 190),
        },
        (
            *ONE_PERSON_GROUPS,
            ("5  The composition, from another picture", (20, 1360, 1550, 430), MAP),
        ),
        ONE_PERSON_NOTE_PLACE,
    ),
    "pidiff_reference": Layout(
        {
            "8": (40, 120, 400, 90),
            "9": (40, 250, 400, 60),
            "10": (40, 350, 400, 90),
            "11": (40, 505, 400, 110),
            "12": (40, 660, 400, 60),
            "1": (520, 120, 330, 120),
            "2": (520, 330, 330, 330),
            "3": (890, 120, 330, 560),
            "4": (1280, 120, 560, 1010),
            "5": (1900, 120, 400, 560),
            "7": (2360, 120, 420, 560),
            "6": (40, 860, 330, 40),
            "15": (40, 960, 330, 60),
            "13": (420, 860, 400, 200),
            "14": (420, 1120, 400, 160),
            "16": (870, 860, 330, 270),
            "17": (870, 1190, 330, 60),
            "18": (1900, 860, 560, 560),
        },
        (
            ("1  Edit model", (20, 40, 440, 710), MODEL),
            ("2  The person", (500, 40, 740, 690), PERSON),
            ("3  Edit the person", (1260, 40, 600, 1110), MAP),
            ("4  Back into the photo: the reference", (1880, 40, 920, 690), PERSON),
            ("5  Draw with the reference", (20, 780, 1220, 530), TEXT),
            ("6  The picture", (1880, 780, 600, 660), DRAW),
        ),
        (2520, 780, 620, 460),
    ),
}

BLUEPRINTS: Mapping[str, Blueprint] = {
    "PIDiff Photo to Person": Blueprint(
        "pidiff_mini",
        inside=("4", "3"),
        outputs=(("4", 0), ("3", 0), ("3", 1)),
        widgets=(("4", "strength"), ("4", "start_percent"), ("4", "preset"), ("3", "on_no_face")),
        description="Adds the person of a photo to a MODEL: PIDiff Encode Face and PIDiff Apply Identity Adapter in "
        "one node.",
        search_aliases=("face", "likeness", "FaceID", "IPAdapter"),
    ),
    "PIDiff Edit a Person": Blueprint(
        "pidiff_edit",
        inside=("7", "6", "3"),
        outputs=(("7", 0), ("6", 0), ("3", 1)),
        widgets=(("6", "direction"), ("6", "amount"), ("6", "mix"), ("7", "strength"), ("7", "preset")),
        description="Adds the edited person of a photo to a MODEL: PIDiff Encode Face, PIDiff Style Edit and PIDiff "
        "Apply Identity Adapter in one node. Open it for the sliders and the live portrait.",
        search_aliases=("edit face", "smile", "age", "expression", "face", "person"),
        settings={"6": {"edits": ""}},
    ),
}
