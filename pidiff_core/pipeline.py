"""Photo -> codes -> portrait -> photo, from top to bottom: what the nodes EncodeIdentityW+, PIDiffPreviewCodes and
PIDiffPastePortrait call.

photo --find_faces--> five points --align_face--> crop --PersonMask--> background replaced --encode--> W+ codes
W+ codes --decode--> portrait
photo, codes, edited codes --decode--> two portraits --paste_face--> edited photo
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from .errors import PIDiffError, check_interrupted, listed
from .face.crop import (
    COLOURS,
    AlignedFace,
    PersonMask,
    align_face,
    check_mask,
    paste_mask,
    photo_hash,
    remove_background,
    whole_photo,
)
from .face.landmark_input import LandmarkInput, landmarks_in_box
from .face.parsers.face_parser import FaceParser
from .face.paste import FacePlace, PasteOptions, paste_face
from .face.search import ALL, UPRIGHT_VIEWS, VIEWS, FaceChoice, FaceDetection, FaceDetector, find_faces, names_of
from .images import bchw_to_bhwc, check_image_bchw, check_image_bhwc, resize_bchw
from .model import PIDiffModel
from .shapes import check_shape
from .wplus.codes import WPlus

VIEW_SIZE_PX = 512  # the crops that users look at, and W+ Adapter's own size before the encoder's 256
KEEP = "keep"
BACKGROUNDS = (*COLOURS, KEEP)
OnNoFace = Literal["error", "pass through", "whole image"]
ON_NO_FACE: tuple[OnNoFace, ...] = get_args(OnNoFace)


@dataclass(frozen=True)
class FaceOptions:
    """How the face of a photo is found and cut out: what the user chooses once for all photos of a batch.

    Args:
        detectors: asked in this order. None at all: each photo is an aligned portrait.
        choice: which of the faces in a photo are meant.
        on_no_face: raise an error; keep the photo's place in the batch, without an identity; or take the whole photo as
            an aligned portrait.
        parser: separates the person from the background if there is no mask of the user; without it, an oval around
            the landmarks.
        background: white, grey or black replaces the background; "keep" leaves it.
        upright: only look for faces that are upright: several times faster on photos without a face.

    Raises:
        PIDiffError: a choice that does not exist.
    """

    detectors: Sequence[FaceDetector] = ()
    choice: FaceChoice = field(default_factory=lambda: FaceChoice("largest first"))
    on_no_face: OnNoFace = "error"
    parser: FaceParser | None = None
    background: str = "white"
    upright: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("on_no_face", self.on_no_face, ON_NO_FACE),
            ("background", self.background, BACKGROUNDS),
        ):
            if value not in known:
                raise PIDiffError(f"{name} should be one of {', '.join(known)}, but it is {value!r:.40}.")


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """One face of one photo, cut out."""

    image: Tensor  # (1, 3, size, size) in [-1, 1]: aligned, background replaced; what the encoder reads
    mask: Tensor  # (1, 1, size, size): what was kept of the crop
    photo_mask: Tensor  # (1, 1, H, W): the same in the frame of the photo
    aligned: AlignedFace  # the crop with its background, and the matrix back to the photo
    found_by: str  # "mtcnn", "landmarks", "whole image" ..., or "no face"
    origin: dict[str, Any]  # JSON-able record: the photo's hash and size, the crop, the landmarks
    present: bool = True  # False for a photo without a face: nothing of it is kept
    doubtful: bool = False  # True if the detector was not sure that this is a face


@dataclass(frozen=True, eq=False)
class EncodedPhotos:
    """What was read from a batch of photos, and from which crops: N faces, in the order of the photos."""

    wplus: WPlus  # (N, S, D)
    crops_bhwc: Tensor  # (N, size, size, 3) in [0, 1]: aligned, background replaced
    aligned_bhwc: Tensor  # the same with their background
    masks_bhw: Tensor  # (N, H, W): each face in the frame of its photo
    crop_masks_b1hw: Tensor  # (N, 1, size, size): what was kept of each crop
    landmarks: Tensor  # (N, 5, 2): in the crops' pixels
    warnings: tuple[str, ...] = ()  # sentences for the user: which faces are doubtful


def encode_photos(
    model: PIDiffModel,
    image_bhwc: Tensor,
    options: FaceOptions,
    *,
    landmarks: Sequence[LandmarkInput | None] | None = None,
    mask_bhw: Tensor | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> EncodedPhotos:
    """Find one face in each photo (or all of them), align it, replace its background and encode it.

    A photo without a face that is passed through gives the average code, and its entry of `WPlus.present` is False.

    Args:
        model: with an encoder.
        image_bhwc: photos (B, H, W, C) in [0, 1], on any device; the results are on the CPU.
        options: how a face is found and cut out.
        landmarks: the faces of each photo that are known already: see `face.landmark_input.read_landmarks`.
        mask_bhw: the user's own masks of the person, (H, W) or (B or 1, H, W), 1 = keep.
        on_progress: called with the fraction of the work that is done, from 0 to 1, several times for each photo.

    Raises:
        PIDiffError: what is wrong, with the photo's index if there are several.
    """
    model.require("encoder", purpose="to read codes from a photo")  # before any work is done
    photos_bhwc = check_image_bhwc(image_bhwc.cpu(), name="the photo")
    count = len(photos_bhwc)
    masks = _masks_of_each(mask_bhw, count)
    crops: list[FaceCrop] = []
    share = 0.8 / count  # of the progress; the rest is the encoder's

    def progress(photo: int) -> Callable[[float], None] | None:
        return None if on_progress is None else lambda done: on_progress((photo + done) * share)

    for index in range(count):
        try:
            crops += crop_faces(
                photos_bhwc[index : index + 1],
                options,
                landmarks=None if landmarks is None else landmarks[index],
                mask_b1hw=masks[index],
                size=max(VIEW_SIZE_PX, model.crop_size),
                on_progress=progress(index),
            )
        except PIDiffError as error:
            if count == 1:
                raise
            raise PIDiffError(f"Photo {index} of {count}: {error}") from error
    wplus = _encode_crops(
        model, crops, photos=count, on_progress=on_progress and (lambda done: on_progress(0.8 + 0.2 * done))
    )
    return EncodedPhotos(
        wplus=wplus,
        crops_bhwc=bchw_to_bhwc(torch.cat([crop.image for crop in crops])),
        aligned_bhwc=bchw_to_bhwc(torch.cat([crop.aligned.image for crop in crops])),
        masks_bhw=rearrange(torch.cat([crop.photo_mask for crop in crops]), "n 1 h w -> n h w"),
        crop_masks_b1hw=torch.cat([crop.mask for crop in crops]),
        landmarks=torch.stack([crop.aligned.landmarks for crop in crops]),
        warnings=_warnings(crops),
    )


def _warnings(crops: Sequence[FaceCrop]) -> tuple[str, ...]:
    rows = [f"{row} ({crop.found_by})" for row, crop in enumerate(crops) if crop.doubtful]
    if not rows:
        return ()
    faces = f"Face {rows[0]} is" if len(rows) == 1 else f"Faces {listed(rows)} are"
    return (f"{faces} doubtful: the detector may be wrong. Check the output `aligned`.",)


def crop_faces(
    photo_bhwc: Tensor,
    options: FaceOptions,
    *,
    landmarks: LandmarkInput | None = None,
    mask_b1hw: Tensor | None = None,
    size: int = VIEW_SIZE_PX,
    on_progress: Callable[[float], None] | None = None,
) -> list[FaceCrop]:
    """Find, align and cut out the chosen faces of one photo: one, or with the choice "all" every one.

    Args:
        photo_bhwc: (1, H, W, 3) in [0, 1].
        options: how a face is found and cut out.
        landmarks: faces that are known already, which need no detector; or a box, which chooses among the faces found
            and replaces one if none is in it.
        mask_b1hw: the user's own mask (1, 1, h, w) of the person, 1 = keep. Of the choice "all", faces of which it
            keeps nothing are left out.
        size: the crop's side in px.
        on_progress: called with the fraction of the work that is done, from 0 to 1.

    Raises:
        PIDiffError: no face, no such face, a mask that leaves nothing, or anything wrong with the input.
    """
    check_interrupted()
    frame = (photo_bhwc.shape[1], photo_bhwc.shape[2])
    person = PersonMask(mask_b1hw, options.parser)
    digest = photo_hash(photo_bhwc)

    def finished(
        aligned: AlignedFace, mask: Tensor, mask_by: str, found_by: str, *, present: bool = True, doubtful: bool = False
    ) -> FaceCrop:
        image = aligned.image
        if options.background != KEEP:
            image = remove_background(image, mask, colour=options.background)
        origin = {
            "picture_sha256": digest,
            "picture_size": [frame[1], frame[0]],
            "found_by": found_by,
            "crop_to_picture": [[round(value, 4) for value in row] for row in aligned.inverse.tolist()],
            "crop_size": aligned.size_px,
            "landmarks": [[round(value, 2) for value in point] for point in aligned.landmarks.tolist()],
            "background": options.background,
            "mask_by": mask_by,
        } | ({"doubtful": True} if doubtful else {})
        return FaceCrop(
            image, mask, paste_mask(mask, aligned, size=frame), aligned, found_by, origin, present, doubtful
        )

    found, searched = _find(photo_bhwc, options, landmarks, on_progress)
    if found:
        aligned = [(align_face(photo_bhwc, face.landmarks, size=size), face) for face in found]
        if options.choice.choose == ALL:  # if the mask keeps none of the faces, the first one's error says so
            aligned = [pair for pair in aligned if person.keeps(pair[0], frame)] or aligned
        return [
            finished(crop, *person.of(crop, frame), face.found_by, doubtful=face.doubtful) for crop, face in aligned
        ]
    whole = whole_photo(photo_bhwc, size=size)
    if found is None or options.on_no_face == "whole image":
        return [finished(whole, *person.of(whole, frame), "whole image")]
    if options.on_no_face == "pass through":
        return [finished(whole, torch.zeros(1, 1, size, size), "no face", "no face", present=False)]
    raise PIDiffError(
        f"No face was found in the photo of {frame[1]}x{frame[0]} pixels ({searched}). Use a photo with a larger, "
        "clearer face, choose another detector, give the face's landmarks or box, or set on_no_face to 'pass through' "
        "(keeps the photo's place in the batch and applies no identity) or to 'whole image' (for a portrait that is "
        "cropped already)."
    )


def _find(
    photo_bhwc: Tensor,
    options: FaceOptions,
    landmarks: LandmarkInput | None,
    on_progress: Callable[[float], None] | None,
) -> tuple[list[FaceDetection] | None, str]:
    """The faces that are meant, perhaps none, and what was searched; None if the whole photo is meant."""
    frame = (photo_bhwc.shape[1], photo_bhwc.shape[2])
    if landmarks is None:
        if not options.detectors:
            return None, ""
        views = UPRIGHT_VIEWS if options.upright else VIEWS
        found = find_faces(photo_bhwc, options.detectors, choice=options.choice, views=views, on_progress=on_progress)
        searched = f"detector: {names_of(options.detectors)}; detectors also try it enlarged, bordered and turned"
        return found, searched
    if landmarks.box_xyxy is None:
        given = [_named(face, "landmarks") for face in landmarks.faces]
        return options.choice.pick(given, frame) if given else [], "the landmarks given"
    box_xyxy = landmarks.box_xyxy
    average = FaceDetection(box_xyxy, landmarks_in_box(box_xyxy), 1.0, found_by="box")
    if not options.detectors:
        return [average], "box"
    left, top, right, bottom = box_xyxy.tolist()
    found = find_faces(
        photo_bhwc,
        options.detectors,
        choice=FaceChoice("largest first"),
        within=lambda face: left <= float(face.middle[0]) <= right and top <= float(face.middle[1]) <= bottom,
        on_progress=on_progress,
    )
    return [_named(face, f"box, {face.found_by}") for face in found] or [average], "box"


def _named(face: FaceDetection, found_by: str) -> FaceDetection:
    return FaceDetection(face.box_xyxy, face.landmarks, face.score, found_by, face.doubtful)


def _masks_of_each(mask_bhw: Tensor | None, count: int) -> list[Tensor | None]:
    """The mask (1, 1, H, W) of each photo."""
    if mask_bhw is None:
        return [None] * count
    masks = check_mask(mask_bhw.cpu())
    masks = masks[None] if masks.ndim == 2 else masks
    number = check_shape(masks, "B H W", name="the mask of the person")["B"]
    if number not in (1, count):
        raise PIDiffError(f"{number} masks were given for {count} photos: give one for all, or one each.")
    return [masks[index if number > 1 else 0][None, None] for index in range(count)]


def _encode_crops(
    model: PIDiffModel, crops: Sequence[FaceCrop], *, photos: int, on_progress: Callable[[float], None] | None
) -> WPlus:
    """The crops' codes; the average code for a photo without a face."""
    found_by = ", ".join(dict.fromkeys(crop.found_by + " (doubtful)" * crop.doubtful for crop in crops))
    people = f"{len(crops)} faces of " if len(crops) != photos else ""
    source = f"{people}{photos} photo{'s' if photos > 1 else ''} (face found by {found_by})"
    origin: dict[str, Any] = {"encoder": model.source, "photos": [crop.origin for crop in crops]}
    present = [crop.present for crop in crops]
    if all(present):
        images = torch.cat([crop.image for crop in crops])
        return encode(model, images, source=source, origin=origin, on_progress=on_progress)
    offsets = torch.zeros(len(crops), model.space.num_styles, model.space.width)
    if any(present):
        seen = torch.cat([crop.image for crop in crops if crop.present])
        offsets[torch.tensor(present)] = encode(model, seen, on_progress=on_progress).offsets
    return WPlus.from_offsets(
        offsets,
        model.require_average().float().cpu(),
        space=model.space,
        source=source,
        origin=origin,
        present=present,
    )


def encode(
    model: PIDiffModel,
    crops_bchw: Tensor,
    *,
    source: str = "",
    origin: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    on_progress: Callable[[float], None] | None = None,
) -> WPlus:
    """Read W+ codes from aligned crops (B, 3, H, H) in [-1, 1], background already replaced.

    Any square size will do: it is resized to `model.crop_size`. Runs on the device of the encoder's weights, in their
    type. One crop at a time bounds the memory, and makes a person's code independent of the others to the last bit; a
    larger `batch_size` is faster.

    Raises:
        PIDiffError: no encoder, a crop that is not square, or an encoder whose output is not finite.
    """
    encoder = model.require("encoder", purpose="to read codes from a photo")
    sizes = check_image_bchw(crops_bchw, name="the aligned crop")
    if sizes["H"] != sizes["W"]:
        raise PIDiffError(f"The aligned crop should be square, but it is {sizes['W']}x{sizes['H']} pixels.")
    average = model.require_average().float().cpu()
    weight = next(encoder.parameters())
    offsets = []
    with torch.no_grad():
        for row in range(0, len(crops_bchw), batch_size):
            check_interrupted()
            if on_progress is not None:
                on_progress(row / len(crops_bchw))
            crops = resize_bchw(crops_bchw[row : row + batch_size].float(), model.crop_size)
            offsets.append(encoder(crops.to(weight)).float().cpu())
    if not all(torch.isfinite(offset).all() for offset in offsets):
        half = weight.dtype == torch.float16
        raise PIDiffError(
            f"The encoder of '{model.source or model.space.name}' gave numbers that are not finite in {weight.dtype}. "
            + (
                "Set the precision of Load PIDiff Model to fp32 or bf16."
                if half
                else "Choose another file for the encoder."
            )
        )
    return WPlus.from_offsets(torch.cat(offsets), average, space=model.space, source=source, origin=origin)


def decode(model: PIDiffModel, wplus: WPlus, *, on_progress: Callable[[float], None] | None = None) -> Tensor:
    """The generator's portraits of these codes: image_bhwc (B, size, size, 3) in [0, 1], the same every time.

    Raises:
        PIDiffError: no generator, or codes of another space.
    """
    generator = model.require("generator", purpose="to show codes as a portrait")
    model.require_space_of(wplus)
    weight = next(generator.parameters())
    pictures = []
    with torch.no_grad():
        for row, codes in enumerate(wplus.codes):
            check_interrupted()
            if on_progress is not None:
                on_progress(row / len(wplus))
            pictures.append(generator.synthesis(codes[None].to(weight), noise="fixed").cpu())
    return bchw_to_bhwc(torch.cat(pictures))


@dataclass(frozen=True, eq=False)
class PastedPhotos:
    """Photos with the edited people in them."""

    images_bhwc: Tensor  # (P, H, W, 3) in [0, 1]
    masks_bhw: Tensor  # (P, H, W): what may have changed; where it is 0, every bit is the photo's


def paste_portraits(
    model: PIDiffModel,
    image_bhwc: Tensor,
    wplus: WPlus,
    edited: WPlus,
    options: PasteOptions,
    *,
    mask_bhw: Tensor | None = None,
    parser: FaceParser | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> PastedPhotos:
    """Put edited people back into the photos that their codes were read from.

    The codes record the photo and the crop of each face, so that several faces of one photo, and photos in another
    order, come out right. A photo without any of the faces is an error; one with codes that stand for "no face" is
    unchanged.

    Args:
        model: with a generator.
        image_bhwc: photos (B, H, W, C) in [0, 1], the same pixels as were encoded.
        wplus: the codes as they were read from the photos: a face each, or one for all (an average).
        edited: as many codes after the edit; or any number if `wplus` has one: every photo is pasted with each of them.
        options: how.
        mask_bhw: what may change, in the frame of the photo: (H, W), (1, H, W), one for each photo or for each face.
        parser: separates the heads in the portraits from their background. Not used for faces that the model's own
            detector found, which are not photographed ones.
        on_progress: called with the fraction of the work that is done, from 0 to 1.

    Returns:
        A picture for each photo, or for each photo and edited code, in the order of the photos.

    Raises:
        PIDiffError: no generator, codes of another space, numbers of codes that do not fit, codes that do not record
            their photos, or another photo.
    """
    for codes in (wplus, edited):
        model.require_space_of(codes)
    photos_bhwc = check_image_bhwc(image_bhwc.cpu(), name="the photo")
    versions = _versions(wplus, edited)
    records = wplus.photos
    if not records or len(records) != len(wplus) != 1:
        found = f"{len(records)} photos for {len(wplus)} codes" if records else "no photo"
        raise PIDiffError(
            f"The codes ({wplus.source or 'of unknown origin'}) record {found}. Connect the codes that PIDiff Encode "
            "Face read from this photo to wplus, and the edited ones to edited."
        )
    rows = list(range(len(wplus))) if len(wplus) > 1 else [0] * len(records)
    hashes = [str(record.get("picture_sha256")) for record in records]
    masks = _masks_of_faces(mask_bhw, photos=len(photos_bhwc), faces=hashes)
    drawn_by = model.detector.name if model.detector is not None else None
    done = (lambda step: None) if on_progress is None else on_progress
    before = decode(model, wplus, on_progress=lambda step: done(0.3 * step))
    after = decode(model, edited, on_progress=lambda step: done(0.3 + 0.3 * step))
    pictures, changed = [], []
    for number, photo_bhwc in enumerate(photos_bhwc.split(1)):
        check_interrupted()
        faces = [face for face, digest in enumerate(hashes) if digest == photo_hash(photo_bhwc)]
        if not faces:
            height, width = photo_bhwc.shape[1:3]
            sizes = listed(dict.fromkeys("x".join(map(str, record.get("picture_size", "?"))) for record in records))
            raise PIDiffError(
                f"Photo {number} ({width}x{height} px) is not one that these codes were read from (those have {sizes} "
                "px). Connect the photo that was connected to PIDiff Encode Face, without any change."
            )
        for version in range(versions):
            picture, area = photo_bhwc, torch.zeros(1, *photo_bhwc.shape[1:3])
            for face in dict.fromkeys(faces):
                row = rows[face]
                if not wplus.present[row]:
                    continue
                picture, cover = paste_face(
                    picture,
                    FacePlace.from_record(records[face]),
                    before_bchw=rearrange(before[row], "h w c -> 1 c h w") * 2.0 - 1.0,
                    after_bchw=rearrange(after[row * versions + version], "h w c -> 1 c h w") * 2.0 - 1.0,
                    options=options,
                    mask_b1hw=masks(number, face),
                    parser=None if records[face].get("found_by") == drawn_by else parser,
                )
                area = torch.maximum(area, cover)
            pictures.append(picture)
            changed.append(area)
            done(0.6 + 0.4 * len(pictures) / (versions * len(photos_bhwc)))
    return PastedPhotos(torch.cat(pictures), torch.cat(changed))


def _versions(wplus: WPlus, edited: WPlus) -> int:
    """How many pictures each photo gives."""
    if len(edited) == len(wplus):
        return 1
    if len(wplus) == 1:
        return len(edited)
    raise PIDiffError(
        f"{len(edited)} edited codes were given for {len(wplus)} codes. Give one edited code for each, or connect the "
        "codes of one person to wplus."
    )


def _masks_of_faces(
    mask_bhw: Tensor | None, *, photos: int, faces: Sequence[str]
) -> Callable[[int, int], Tensor | None]:
    """(photo, face) -> the user's mask (1, 1, H, W)."""
    if mask_bhw is None:
        return lambda photo, face: None
    masks = check_mask(mask_bhw.cpu())
    masks = masks[None] if masks.ndim == 2 else masks
    number = check_shape(masks, "B H W", name="the mask")["B"]
    if number not in (1, photos, len(faces)):
        raise PIDiffError(
            f"{number} masks were given for {photos} photos with {len(faces)} faces: give one for all, one for each "
            "photo or one for each face."
        )
    if number == len(faces):
        return lambda photo, face: masks[face][None, None]
    return lambda photo, face: masks[photo if number > 1 else 0][None, None]
