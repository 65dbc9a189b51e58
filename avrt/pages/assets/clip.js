// Frames and audio of the open item.

function drawClip(clip) {
  if (clip.problem) return [make("p", { class: "problem" }, `No frames and no audio: ${short(clip.problem)}`)];
  const audio = clip.audio
    ? make("audio", { controls: true, preload: "none", src: clip.audio, "aria-label": "Audio of the clip" }) : null;
  const frames = (clip.frames ?? []).map((source, number) => drawFrame(clip, source, number, audio));
  const silent = make("p", { class: "note" }, "The clip has no audio.");
  return [
    make("div", { class: clip.is_image ? "frames image" : "frames" }, ...frames),
    make("div", { class: "audio" }, audio ?? silent,
      make("span", { class: "note" }, drawLength(clip))),
  ];
}

function drawLength(clip) {
  if (!clip.seconds) return "";
  const length = `clip of ${clip.seconds.toFixed(1)} s`;
  const cut = clip.audio && clip.audio_seconds && clip.audio_seconds < clip.seconds - 0.2;
  return cut ? `${length}; audio of its first ${clip.audio_seconds.toFixed(1)} s` : length;
}

/** A thumbnail; a click plays the audio from its time, if there is any. */
function drawFrame(clip, source, number, audio) {
  const time = clip.times?.[number] ?? 0;
  const name = clip.is_image ? "Image" : `Frame ${number + 1} at ${time.toFixed(1)} s`;
  const image = make("img", { src: source, loading: "lazy", decoding: "async", alt: name });
  // Thumbnails are resized to whole patches, like the model's frames, but shown with the source's aspect ratio.
  image.style.aspectRatio = `${clip.width} / ${clip.height}`;
  const label = make("span", {}, clip.is_image ? "" : `${time.toFixed(1)} s`);
  if (!audio || clip.is_image || (clip.audio_seconds && time >= clip.audio_seconds)) return make("span", { class: "frame" }, image, label);
  const player = make("button", { type: "button", class: "frame", title: "play from here" }, image, label);
  player.addEventListener("click", () => {
    audio.currentTime = time;
    audio.play().catch(() => {});  // another item was opened before it began
  });
  return player;
}
