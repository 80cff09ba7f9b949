package fs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// promises are the numbered sentences of docs/semantics.md, with white space made single.
var promises = sync.OnceValues(func() (map[string]string, error) {
	b, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	text := regexp.MustCompile(`\n\n|\n- |\n#`).Split(string(b), -1)
	for _, p := range text {
		p = strings.Join(strings.Fields(strings.TrimPrefix(p, "- ")), " ")
		if m := regexp.MustCompile(`^\*\*([KE]\d+)\*\* (.*)$`).FindStringSubmatch(p); m != nil {
			found[m[1]] = m[2]
		}
	}
	return found, nil
})

// promise says that a test shows a promise of docs/semantics.md, and quotes it: a test whose promise was
// changed or taken away fails.
func promise(t testing.TB, number, quote string) {
	t.Helper()
	all, err := promises()
	if err != nil {
		t.Fatal(err)
	}
	switch text, ok := all[number]; {
	case !ok:
		t.Errorf("docs/semantics.md has no promise %s", number)
	case len(quote) < 20 || !strings.Contains(text, quote):
		t.Errorf("docs/semantics.md promises in %s\n\t%s\nand not\n\t%s", number, text, quote)
	}
}

// TestPromises requires that every promise about the file system is quoted by some test.
func TestPromises(t *testing.T) {
	all, err := promises()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 30 {
		t.Fatalf("only %d promises found in docs/semantics.md: the test cannot read it", len(all))
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
	}
	for number := range all {
		if strings.HasPrefix(number, "K") && !strings.Contains(tests.String(), `promise(t, "`+number+`"`) {
			t.Errorf("no test quotes %s: %s", number, all[number])
		}
	}
}
