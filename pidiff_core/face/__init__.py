"""From a user's photo to the crop that the encoder reads: find a face, align it as FFHQ does, remove the background."""
