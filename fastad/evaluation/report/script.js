document.addEventListener("keydown", function (event) {
  var open = document.querySelector("figure:target");
  var name = {Escape: ".close", ArrowLeft: ".previous", ArrowRight: ".next"}[event.key];
  if (open && name && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    open.querySelector(name).click();
  }
});
