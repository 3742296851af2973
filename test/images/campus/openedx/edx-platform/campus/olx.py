"""Courses in OLX, the format in which they leave and enter Studio."""

import io
import mimetypes
import os
import pathlib
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree

LIMIT = 200 << 20  # bytes of an archive when unpacked
CONTAINERS = ("course", "chapter", "sequential", "vertical")


class BadCourse(Exception):
    """The text says what is wrong with the files."""


def course_key(org, number, run):
    """course-v1:ORG+NUMBER+RUN"""
    for part in (org, number, run):
        if not part or not all(c.isalnum() or c in "-._~" for c in part):
            raise BadCourse("{!r} cannot be part of a course's name".format(part))
    return "course-v1:{}+{}+{}".format(org, number, run)


def read_folder(folder):
    """The course below a folder with a course.xml: name parts, blocks, files."""
    root = pathlib.Path(folder)
    found = sorted(root.glob("**/course.xml"), key=lambda p: len(p.parts))
    if not found:
        raise BadCourse("there is no course.xml")
    root = found[0].parent
    top = _parse(found[0])
    run = top.get("url_name") or "run"
    org, number = top.get("org") or "", top.get("course") or ""
    body = _resolve(root, top)
    blocks = []
    _collect(root, body, None, blocks)
    files = []
    static = root / "static"
    for path in sorted(static.glob("**/*")) if static.is_dir() else []:
        if path.is_file():
            name = "type@asset+block@" + "_".join(path.relative_to(static).parts)
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            files.append((name, path.read_bytes(), kind))
    fields = dict(body.attrib)
    about = root / "about" / "short_description.html"
    if about.is_file():
        fields["short_description"] = about.read_text(encoding="utf-8").strip()
    return {"org": org, "number": number, "run": run, "fields": fields, "blocks": blocks, "files": files}


def read_archive(data):
    """The course in a .tar.gz."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
                _extract(archive, pathlib.Path(folder))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BadCourse("this is no readable archive: {}".format(error)) from error
        return read_folder(folder)


def _extract(archive, folder):
    """Files and folders alone, and only below folder."""
    size = 0
    for member in archive:
        parts = pathlib.PurePosixPath(member.name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise BadCourse("{!r} leads out of the archive".format(member.name))
        size += member.size
        if size > LIMIT:
            raise BadCourse("the archive is too large")
        if member.isfile():
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())


def _parse(path):
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise BadCourse("{}: {}".format(path.name, error)) from error


def _resolve(root, element):
    """The element, read from its own file when it only names one."""
    name = element.get("url_name")
    if name and len(element) == 0 and not (element.text or "").strip():
        if os.sep in name or name.startswith("."):
            raise BadCourse("{!r} is not the name of a block".format(name))
        path = root / element.tag / (name + ".xml")
        if path.is_file():
            inner = _parse(path)
            inner.set("url_name", name)
            return inner
    return element


def _collect(root, element, parent, blocks, depth=0):
    if depth > 10:  # a block whose file names itself
        raise BadCourse("blocks are nested too deeply")
    name = element.get("url_name") or "{}_{}".format(element.tag, len(blocks))
    block = {
        "type": element.tag,
        "name": name,
        "parent": parent,
        "display_name": element.get("display_name") or name,
    }
    blocks.append(block)
    if element.tag in CONTAINERS:
        for child in element:
            _collect(root, _resolve(root, child), name, blocks, depth + 1)
        return
    if element.tag == "html":
        path = root / "html" / ((element.get("filename") or name) + ".html")
        block["data"] = path.read_text(encoding="utf-8") if path.is_file() else "".join(
            ElementTree.tostring(child, encoding="unicode") for child in element
        )
        return
    block["data"] = "".join(ElementTree.tostring(child, encoding="unicode") for child in element)
    block["attributes"] = dict(element.attrib)
