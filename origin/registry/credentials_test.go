package registry

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pantala/pantala/blob"
)

// TestCredentialFiles: what docker and podman write, in all of its forms.
func TestCredentialFiles(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	dir := t.TempDir()
	text := `{
		"auths": {
			"registry.example": {"auth": "` + b64("u1:p:1") + `"},
			"https://old.example/v1/": {"auth": "` + b64("u2:p2") + `"},
			"https://index.docker.io/v1/": {"auth": "` + b64("u3:p3") + `"},
			"plain.example:5000": {"username": "u4", "password": "p4"},
			"token.example": {"registrytoken": "t5"},
			"identity.example": {"auth": "` + b64("00000000:") + `", "identitytoken": "i6"},
			"quay.example": {"auth": "` + b64("host:p") + `"},
			"quay.example/team": {"auth": "` + b64("team:p") + `"},
			"quay.example/team/app": {"auth": "` + b64("app:p") + `"},
			"only.example/team": {"auth": "` + b64("team:p") + `"},
			"CAPS.example": {"auth": "` + b64("u7:p7") + `"},
			"empty.example": {},
			"broken.example": {"auth": "&&&"},
			"colon.example": {"auth": "` + b64("nocolon") + `"}
		},
		"HttpHeaders": {"x": "y"}, "detachKeys": "ctrl-e"
	}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[[2]string]credential{
		{"registry.example", "a"}:         {user: "u1", password: "p:1"},
		{"registry.example:5000", "a"}:    {},
		{"old.example", "a"}:              {user: "u2", password: "p2"},
		{"docker.io", "library/a"}:        {user: "u3", password: "p3"},
		{"plain.example:5000", "a"}:       {user: "u4", password: "p4"},
		{"token.example", "a"}:            {token: "t5"},
		{"identity.example", "a"}:         {user: "00000000", identity: "i6"},
		{"quay.example", "a"}:             {user: "host", password: "p"},
		{"quay.example", "team/x"}:        {user: "team", password: "p"},
		{"quay.example", "team/app"}:      {user: "app", password: "p"},
		{"quay.example", "team/app/deep"}: {user: "app", password: "p"},
		{"quay.example", "teammate/x"}:    {user: "host", password: "p"},
		{"only.example", "team/x"}:        {user: "team", password: "p"},
		{"only.example", "other/x"}:       {},
		{"caps.example", "a"}:             {user: "u7", password: "p7"},
		{"empty.example", "a"}:            {},
		{"nobody.example", "a"}:           {},
	} {
		got, err := credentialFor(t.Context(), []string{dir}, in[0], in[1])
		if got.from != "" && got.from != filepath.Join(dir, "config.json") {
			t.Errorf("from %s", got.from)
		}
		got.from = ""
		if err != nil || got != want {
			t.Errorf("%v: user %q, right: %v, %v", in, got.user, got == want, err)
		}
	}
	for _, host := range []string{"broken.example", "colon.example"} {
		if _, err := credentialFor(t.Context(), []string{dir}, host, "a"); !errors.Is(err, blob.ErrInvalid) || strings.Contains(err.Error(), "&&&") {
			t.Errorf("%s: %v", host, err)
		}
	}
	c := credential{user: "u", password: "hunter2", identity: "hunter2", token: "hunter2", from: "x"}
	if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(s, "hunter2") {
		t.Errorf("a credential prints itself: %s", s)
	}
}

// TestCredentialPlaces: which files are read, and in which order.
func TestCredentialPlaces(t *testing.T) {
	home := t.TempDir()
	for _, v := range []string{"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, "")
	}
	t.Setenv("HOME", home)
	who := func() string {
		t.Helper()
		c, err := credentialFor(t.Context(), nil, "registry.example", "a")
		if err != nil {
			t.Fatal(err)
		}
		return c.user
	}
	write := func(user string, path ...string) string {
		file := filepath.Join(append([]string{home}, path...)...)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		text := `{"auths": {"registry.example": {"username": "` + user + `", "password": "x"}}}`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if who() != "" {
		t.Error("credentials of nobody")
	}
	write("podman-home", ".config", "containers", "auth.json")
	if got := who(); got != "podman-home" {
		t.Error(got)
	}
	write("podman-run", "run", "containers", "auth.json")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	if got := who(); got != "podman-run" {
		t.Error(got)
	}
	t.Setenv("REGISTRY_AUTH_FILE", write("podman-env", "env.json"))
	if got := who(); got != "podman-env" {
		t.Error(got)
	}
	write("docker-home", ".docker", "config.json")
	if got := who(); got != "docker-home" {
		t.Error(got)
	}
	write("docker-env", "dock", "config.json")
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, "dock"))
	if got := who(); got != "docker-env" {
		t.Error(got)
	}
	// A broken file hides no other one, but is told of when nobody else knows.
	if err := os.WriteFile(filepath.Join(home, "dock", "config.json"), []byte(`{"auths": hunter2`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := who(); got != "podman-env" {
		t.Error(got)
	}
	if _, err := credentialFor(t.Context(), nil, "other.example", "a"); !errors.Is(err, blob.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(home, "dock", "config.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := credentialFor(t.Context(), nil, "other.example", "a"); err != nil {
		t.Error("an empty file: ", err)
	}
}

// TestHelpers: credential helpers for one server and for all, and helpers that fail.
func TestHelpers(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	script := func(name, body string) {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\nread server\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("mine", `[ "$1" = get ] || exit 1
case "$server" in
registry.example) echo '{"ServerURL":"x","Username":"helped","Secret":"hunter2"}';;
azure.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"hunter3"}';;
https://index.docker.io/v1/) echo '{"Username":"hubby","Secret":"x"}';;
leak.example) echo '{"Username":"u","Secret":"hunter4"}'; exit 1;;
sad.example) echo 'the keychain is locked'; exit 1;;
odd.example) echo 'hunter5 is no JSON';;
*) echo 'credentials not found in native keychain'; exit 1;;
esac`)
	script("all", `echo '{"Username":"all","Secret":"'"$server"'"}'`)
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	get := func(host string) (credential, error) { return credentialFor(t.Context(), []string{dir}, host, "a") }
	write(`{"credHelpers": {"registry.example": "mine", "azure.example": "mine", "leak.example": "mine", "sad.example": "mine", "odd.example": "mine", "https://absent.example": "absent", "bad.example": "../../bin/sh"}, "credsStore": "all", "auths": {"file.example": {}}}`)
	if c, err := get("registry.example"); err != nil || c.user != "helped" || c.password != "hunter2" || c.from != "docker-credential-mine" {
		t.Errorf("user %q, %v", c.user, err)
	}
	if c, err := get("azure.example"); err != nil || c.user != "" || c.identity != "hunter3" {
		t.Errorf("user %q, %v", c.user, err)
	}
	if c, err := get("other.example:5000"); err != nil || c.user != "all" || c.password != "other.example:5000" {
		t.Errorf("user %q, %v", c.user, err)
	}
	for host, test := range map[string]struct {
		class error
		says  string
	}{"sad.example": {blob.ErrDenied, "locked"}, "leak.example": {blob.ErrDenied, "failed"}, "odd.example": {blob.ErrDenied, "docker-credential-mine"}, "absent.example": {blob.ErrDenied, "docker-credential-absent"}, "bad.example": {blob.ErrInvalid, "no name of a program"}} {
		c, err := get(host)
		if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter") || !c.empty() {
			t.Errorf("%s: %v", host, err)
		}
	}
	write(`{"credsStore": "mine", "auths": {"file.example": {"username": "file", "password": "x"}, "sad.example": {"username": "file", "password": "x"}}}`)
	if c, err := get("docker.io"); err != nil || c.user != "hubby" {
		t.Errorf("user %q, %v", c.user, err)
	}
	for _, host := range []string{"file.example", "sad.example"} {
		if c, err := get(host); err != nil || c.user != "file" {
			t.Errorf("%s: user %q, %v", host, c.user, err)
		}
	}
	if c, err := get("nobody.example"); err != nil || !c.empty() {
		t.Errorf("user %q, %v", c.user, err)
	}
}
