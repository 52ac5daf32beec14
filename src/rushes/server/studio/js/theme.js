// A classic script in the head, so that no page is ever painted in the wrong theme.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("rushes.theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch { /* storage is forbidden here: the system's theme it is */ }
})();
