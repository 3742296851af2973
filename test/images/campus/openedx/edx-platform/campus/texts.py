"""Texts for visitors in English and Spanish."""

from django.conf import settings
from django.utils.translation import get_language

TEXTS = {
    "courses": ("Courses", "Cursos"),
    "my_courses": ("My courses", "Mis cursos"),
    "sign_in": ("Sign in", "Entrar"),
    "sign_out": ("Sign out", "Salir"),
    "register": ("Create an account", "Crear una cuenta"),
    "welcome": ("Learn at your own pace", "Aprende a tu ritmo"),
    "lead": (
        "Open courses by teachers, for anyone with a browser.",
        "Cursos abiertos hechos por docentes, para cualquiera que tenga un navegador.",
    ),
    "no_courses": ("There are no courses yet.", "Todavía no hay cursos."),
    "see_course": ("See the course", "Ver el curso"),
    "enroll": ("Enrol", "Inscribirse"),
    "enrolled": ("You are enrolled", "Ya tienes inscripción"),
    "contents": ("Contents", "Contenido"),
    "user_name": ("User name or e-mail", "Usuario o correo"),
    "email": ("E-mail", "Correo"),
    "full_name": ("Full name", "Nombre completo"),
    "public_name": ("Public user name", "Nombre de usuario público"),
    "password": ("Password", "Contraseña"),
    "wrong": ("User name or password is wrong.", "El usuario o la contraseña no son correctos."),
    "not_enrolled": ("You are not enrolled in any course.", "No tienes inscripción en ningún curso."),
    "studio": ("Studio", "Studio"),
    "new_course": ("New course", "Curso nuevo"),
    "create": ("Create", "Crear"),
    "org": ("Organization", "Organización"),
    "number": ("Course number", "Código del curso"),
    "run": ("Course run", "Edición"),
    "title": ("Course name", "Nombre del curso"),
    "import": ("Import", "Importar"),
    "import_hint": ("A course as OLX (.tar.gz)", "Un curso en OLX (.tar.gz)"),
    "no_rights": ("You may not create courses.", "No puedes crear cursos."),
    "language": ("Español", "English"),
    "other_language": ("es-419", "en"),
    "answer": ("Answer", "Respuesta"),
    "mail_activate": ("Activate your account", "Activa tu cuenta"),
    "mail_activate_body": ("To activate your account, open", "Para activar tu cuenta, abre"),
    "mail_reset": ("Set a new password", "Pon una contraseña nueva"),
    "mail_reset_body": ("To set a new password, open", "Para poner una contraseña nueva, abre"),
    "activated": ("Your account is active.", "Tu cuenta está activa."),
    "bad_link": ("This link is not valid.", "Este enlace no es válido."),
}


def texts(language=None):
    """All texts in a language; the one of the request when none is given."""
    spanish = (language or get_language() or settings.LANGUAGE_CODE).startswith("es")
    return {name: pair[1 if spanish else 0] for name, pair in TEXTS.items()}


def context(request):
    return {
        "t": texts(),
        "platform_name": settings.PLATFORM_NAME,
        "lms_url": settings.LMS_ROOT_URL,
        "studio_url": settings.CMS_ROOT_URL,
        "is_studio": settings.SERVICE_VARIANT == "cms",
    }
