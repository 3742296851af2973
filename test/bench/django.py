# A page as an Open edX course outline is made: 20 sections of 6 subsections of 4 units, with template inheritance,
# addresses by name, translations and escaping.
import sys

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.shortcuts import render
from django.urls import path

BASE = """{% load i18n %}<!doctype html><html lang="es"><head><title>{% block title %}{% endblock %}</title></head>
<body><nav>{% for n in navigation %}<a href="{% url 'course' n %}">{% trans "Course" %} {{ n }}</a>{% endfor %}</nav>
<main>{% block main %}{% endblock %}</main></body></html>"""
OUTLINE = """{% extends "base" %}{% load i18n %}{% block title %}{{ course.name }}{% endblock %}{% block main %}
<h1>{{ course.name }}</h1>{% for section in course.sections %}<section><h2>{{ forloop.counter }}. {{ section.name }}</h2>
{% for subsection in section.subsections %}<h3>{{ subsection.name|title }}</h3><p>{% trans "Due" %} {{ subsection.due|date:"Y-m-d H:i" }}</p>
<ol>{% for unit in subsection.units %}<li class="{% if unit.done %}done{% else %}open{% endif %}">
<a href="{% url 'unit' course.number section.number subsection.number unit.number %}">{{ unit.name }}</a></li>{% endfor %}</ol>
{% endfor %}</section>{% endfor %}{% endblock %}"""


def outline(request, *numbers):
    import datetime
    due = datetime.datetime(2026, 11, 30, 12, 0)
    return render(request, "outline", {"navigation": range(10), "course": {
        "number": 1, "name": "Introducción a la química", "sections": [{
            "number": s, "name": f"Semana {s}: enlaces & moléculas", "subsections": [{
                "number": b, "name": f"lección {b} de la semana {s}", "due": due, "units": [
                    {"number": u, "name": f"Unidad <{u}>", "done": (s + b + u) % 3 == 0} for u in range(4)]
            } for b in range(6)]} for s in range(20)]}})


settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=sys.modules[__name__], SECRET_KEY="of a benchmark", USE_I18N=True, USE_TZ=False, LANGUAGE_CODE="es",
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.locale.LocaleMiddleware",
                "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
                "django.middleware.clickjacking.XFrameOptionsMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": [
        ("django.template.loaders.cached.Loader", [("django.template.loaders.locmem.Loader", {"base": BASE, "outline": OUTLINE})])]}}],
)
urlpatterns = [
    path("courses/<int:c>", lambda r, c: outline(r, c), name="course"),
    path("courses/<int:c>/<int:s>/<int:b>/<int:u>", lambda r, c, s, b, u: outline(r, c, s, b, u), name="unit"),
]
application = get_wsgi_application()
