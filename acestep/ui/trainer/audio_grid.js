// One player for all cells of a grid; what plays, and where in it, outlives that the grid is painted anew.
const player = new Audio();
player.loop = true;
element.player = player;
let key = null, going = false, loading = false;
const cells = () => [...element.querySelectorAll('button[data-src]')];
const now = () => cells().find(cell => cell.dataset.key === key);
function mark() {
  for (const cell of cells()) cell.setAttribute('aria-pressed', String(cell === now() && going));
  const line = element.querySelector('.ac-now');
  if (line && now()) line.textContent = (!going ? 'Paused: ' : 'Playing: ') + now().getAttribute('aria-label');
}
function play(cell) {
  if (cell.dataset.key === key) { if (player.paused) player.play(); else player.pause(); return; }
  const at = player.currentTime || 0;
  key = cell.dataset.key;
  going = loading = true;
  player.src = cell.dataset.src;
  player.volume = Number(cell.dataset.gain);
  player.onloadedmetadata = () => {
    player.currentTime = Math.min(at, Math.max(0, player.duration - 0.05));
    loading = false;
    player.play();
  };
  mark();
}
const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
player.onplay = () => { going = true; mark(); };
player.onpause = () => { going = loading; mark(); };
element.addEventListener('click', event => {
  const cell = event.target.closest('button[data-src]');
  const pick = event.target.closest('button[data-pick]');
  if (cell) play(cell);
  if (pick) trigger('pick', {value: pick.dataset.pick});
});
element.addEventListener('keydown', event => {
  const cell = event.target.closest('button[data-src]'), step = steps[event.key];
  if (!cell || !step) return;
  event.preventDefault();
  const down = other => other.dataset.row - cell.dataset.row;
  const right = other => other.dataset.column - cell.dataset.column;
  const ahead = other => down(other) * step[0] + right(other) * step[1];
  const inLine = other => down(other) * step[1] === 0 && right(other) * step[0] === 0;
  const next = cells().filter(other => inLine(other) && ahead(other) > 0).sort((a, b) => ahead(a) - ahead(b))[0];
  if (next) { next.focus(); play(next); }
});
watch('value', () => {
  if (key && !now()) { player.pause(); key = null; }
  if (now()) player.volume = Number(now().dataset.gain);
  mark();
});
