#!/usr/bin/env bash
# Build the sdist and the wheel into dist/, check their content, and try the wheel in an environment of its own.
# Publishes nothing; at the end it prints the commands that do.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
packages=(randygpt relay_client distribution server)

say() { printf '\n== %s\n' "$*"; }
die() {
  printf 'release.sh: %s\n' "$*" >&2
  exit 1
}

[ -x "$python" ] || die "$python is missing: run make install"
[ -z "$(git status --porcelain)" ] || die "uncommitted changes: commit them or remove them (git status)"
version=$("$python" -I -c 'import randygpt; print(randygpt.__version__)')
grep -qE "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
  die "CHANGELOG.md has no dated section for version $version"
if git rev-parse -q --verify "refs/tags/v$version" >/dev/null && [ "$(git rev-parse "v$version^{commit}")" != "$(git rev-parse HEAD)" ]; then
  die "the tag v$version names another commit: raise __version__ in randygpt/__init__.py"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
wheel=dist/randygpt-$version-py3-none-any.whl
platform=dist/randygpt-$version-py3-none-$("$python" -c 'import hatch_build; print(hatch_build.wheel_platform())').whl
sdist=dist/randygpt-$version.tar.gz

say "building $version"
rm -f "$wheel" "$platform" "$sdist"
RANDYGPT_DECODE_KERNEL=0 "$python" -I -m hatchling build --target sdist --target wheel --directory dist
"$python" -I -m hatchling build --target wheel --directory dist
[ -e "$platform" ] || die "no wheel for this platform: install a C compiler"

say "comparing the content with the committed files"
git ls-files "${packages[@]}" | LC_ALL=C sort >"$scratch/expected"
"$python" -I -c 'import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist(), sep="\n")' "$wheel" |
  grep -v '\.dist-info/' | LC_ALL=C sort >"$scratch/found"
diff "$scratch/expected" "$scratch/found" || die "the wheel differs from the committed files (<) of the packages"
"$python" -I -c 'import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist(), sep="\n")' "$platform" |
  grep -v -e '\.dist-info/' -e '^randygpt/model/decode_step\.so$' | LC_ALL=C sort >"$scratch/found"
diff "$scratch/expected" "$scratch/found" || die "the wheel for this platform differs from the committed files (<)"
git ls-files | grep -vE '^\.(ci|github)/' | LC_ALL=C sort >"$scratch/expected"
tar -tzf "$sdist" | sed 's|^[^/]*/||' | grep -vx PKG-INFO | LC_ALL=C sort >"$scratch/found"
diff "$scratch/expected" "$scratch/found" || die "the sdist differs from the committed files (<)"

say "building the wheel again, from the sdist"
mkdir "$scratch/source"
tar -xzf "$sdist" -C "$scratch/source" --strip-components 1
(
  builder=$PWD/$python
  cd "$scratch/source"
  RANDYGPT_DECODE_KERNEL=0 "$builder" -I -m hatchling build --target wheel --directory "$scratch/rebuilt"
)
cmp "$wheel" "$scratch/rebuilt/${wheel##*/}" || die "the sdist builds another wheel"

say "installing the wheel into an environment of its own"
"$python" -I -m venv "$scratch/environment"
"$scratch/environment/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt "$platform"
"$scratch/environment/bin/python" -I -c 'from randygpt.model import decode_kernel; assert decode_kernel._load()' ||
  die "the wheel for this platform has no decode kernel"

say "smoke test"
export RANDYGPT_HOME="$scratch/home" RANDYGPT_CONFIG=/dev/null
mkdir "$scratch/folder"
(
  cd "$scratch/folder"
  [ "$("$scratch/environment/bin/randygpt" --version)" = "randygpt $version" ] || die "the command is not version $version"
  "$scratch/environment/bin/randygpt" demo
)

say "ready"
"$python" -I -m pip hash "$wheel" "$platform" "$sdist"
printf '\nTo publish it:\n  git tag --sign v%s && git push origin v%s\n  twine upload %s %s %s\n' "$version" "$version" "$wheel" "$platform" "$sdist"
