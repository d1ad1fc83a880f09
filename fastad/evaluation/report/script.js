document.addEventListener("keydown", function (event) {
  var open = document.querySelector("figure:target");
  var name = {Escape: ".close", ArrowLeft: ".previous", ArrowRight: ".next"}[event.key];
  if (open && name && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    open.querySelector(name).click();
  }
});
// The way back leads the keyboard to the picture, too.
window.addEventListener("hashchange", function () {
  var slot = document.querySelector(".slot:target");
  if (slot) slot.querySelector(".open").focus({preventScroll: true});
});
