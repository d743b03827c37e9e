// Closes notes and warnings when there was time to read all of them. Gradio 6.31 shows the messages of a type in one
// toast and closes it when the time of the first message is over. Errors stay until they are closed.
() => {
  const LEAST_MS = { info: 5000, warning: 10000 };
  const MS_PER_CHARACTER = 60;
  const timers = new WeakMap();

  const close = (toast, time) => {
    if (!toast.isConnected) return;
    if (document.hidden || toast.matches(":hover")) wait(toast, time);
    else toast.querySelector("[data-testid=toast-close]")?.click();
  };
  const wait = (toast, time) => {
    clearTimeout(timers.get(toast));
    timers.set(toast, setTimeout(() => close(toast, time), time));
  };
  const look = () => {
    for (const [type, least] of Object.entries(LEAST_MS)) {
      for (const toast of document.querySelectorAll(`.toast-body.${type}`)) {
        const messages = toast.querySelectorAll("[data-testid=toast-text]");
        if (toast.dataset.messages === String(messages.length)) continue;
        toast.dataset.messages = messages.length;
        wait(toast, Math.max(least, MS_PER_CHARACTER * messages[messages.length - 1]?.innerText.length || 0));
      }
    }
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
}
