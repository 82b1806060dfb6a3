"""Pictures and films inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_uri(kind: str, content: bytes) -> str:
    """Return a file of media type `kind` as a URI that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def jpeg_uri(picture: Image.Image, quality: int = 80) -> str:
    """Return a picture as a URI that holds it as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return data_uri("image/jpeg", buffer.getvalue())
