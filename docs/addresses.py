"""Where the project and its site can be reached: settings of the build, or GitHub's own variables.

`BNREF_REPOSITORY` is the address of the repository, `BNREF_SITE` that of the published site, and
`BNREF_INSTALL` what ``pip install`` takes to install the package with what the gallery needs.
"""

import os


def repository():
    """The address of the repository, without a slash at the end; None where nobody says it."""
    given = os.environ.get("BNREF_REPOSITORY")
    if given is None and "GITHUB_REPOSITORY" in os.environ:
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        given = f"{server}/{os.environ['GITHUB_REPOSITORY']}"
    return given.rstrip("/") if given else None


def site():
    """The address of the published site, with a slash at the end; None where nobody says it."""
    given = os.environ.get("BNREF_SITE")
    if given is None and "GITHUB_REPOSITORY" in os.environ:
        owner, _, name = os.environ["GITHUB_REPOSITORY"].partition("/")
        given = f"https://{owner.lower()}.github.io/{name}"
    return given.rstrip("/") + "/" if given else None


def requirement():
    """What ``pip install`` takes; in a clone, where nothing is known of another place."""
    given = os.environ.get("BNREF_INSTALL")
    if given is None and repository():
        given = f"bnref[gallery] @ git+{repository()}"
    return given or ".[gallery]"
