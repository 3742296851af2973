// A micro-frontend in small: it asks the LMS for the site's settings through
// the relative address that one build serves every domain with.
(async () => {
  const root = document.getElementById("root");
  const spanish = navigator.language.startsWith("es");
  const text = (en, es) => (spanish ? es : en);
  const app = document.body.dataset.app;
  let config;
  try {
    const answer = await fetch("/api/mfe_config/v1?mfe=" + encodeURIComponent(app));
    if (!answer.ok) throw new Error(String(answer.status));
    config = await answer.json();
  } catch (e) {
    root.textContent = text("The site is not answering: ", "El sitio no responde: ") + e.message;
    return;
  }
  document.title = app + " | " + config.SITE_NAME;
  document.getElementById("site").textContent = config.SITE_NAME;
  document.getElementById("home").href = config.LMS_BASE_URL;
  root.replaceChildren();
  if (app !== "authn") {
    const p = document.createElement("p");
    p.textContent = config.SITE_NAME + " · " + location.pathname;
    root.append(p);
    return;
  }
  const form = document.createElement("form");
  for (const [name, type, en, es] of [
    ["email_or_username", "text", "User name or e-mail", "Usuario o correo"],
    ["password", "password", "Password", "Contraseña"],
  ]) {
    const label = document.createElement("label");
    label.textContent = text(en, es);
    const input = document.createElement("input");
    Object.assign(input, { name, type, required: true });
    label.append(input);
    form.append(label);
  }
  const button = document.createElement("button");
  button.textContent = text("Sign in", "Entrar");
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  form.append(button, said);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const token = await (await fetch(config.LMS_BASE_URL + config.CSRF_TOKEN_API_PATH, { credentials: "include" })).json();
    const answer = await fetch(config.LMS_BASE_URL + "/api/user/v2/account/login_session/", {
      method: "POST",
      credentials: "include",
      headers: { "X-CSRFToken": token.csrfToken },
      body: new URLSearchParams(new FormData(form)),
    });
    if (answer.ok) location.assign(config.LMS_BASE_URL + "/dashboard");
    else said.textContent = text("User name or password is wrong.", "El usuario o la contraseña no son correctos.");
  };
  root.append(form);
})();
