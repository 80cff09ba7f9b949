package pantala

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// house is a repository as the checks see it.
type house struct {
	root  string
	files []goFile
	texts []textFile // every file that is text, Go or not
}

// goFile is one parsed Go file.
type goFile struct {
	name    string // slash-separated, from the root
	dir     string // "." at the root
	test    bool   // _test.go
	pkg     string
	doc     string // package comment
	imports []string
}

type textFile struct{ name, text string }

// room is the first element of a directory below the root.
func room(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	return first
}

// isTestSupport reports whether dir is a package xtest, beside or inside a room x.
func isTestSupport(dir string) bool { return strings.HasSuffix(path.Base(dir), "test") }

// scan reads a repository; hidden folders, bin, testdata and other modules' Go files are left out.
func scan(root string) (*house, error) {
	h := &house{root: root}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if e.IsDir() {
			if base := path.Base(name); name != "." && (base == "bin" || base == "testdata" || strings.HasPrefix(base, ".") && base != ".ci") {
				return filepath.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() || !isText(name) {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		h.texts = append(h.texts, textFile{name, string(src)})
		if !strings.HasSuffix(name, ".go") || room(name) == "tools" {
			return nil
		}
		f, err := parser.ParseFile(fset, name, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		h.files = append(h.files, newGoFile(name, f))
		return nil
	})
	return h, err
}

// isText goes by the name: what people write, not what tools generate.
func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".sh", ".py", ".yaml", ".yml", ".conf", ".service", ".mod":
		return true
	}
	return path.Base(name) == "Makefile" || strings.HasPrefix(name, ".ci/")
}

func newGoFile(name string, f *ast.File) goFile {
	g := goFile{name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), pkg: f.Name.Name}
	if f.Doc != nil {
		g.doc = f.Doc.Text()
	}
	for _, imp := range f.Imports {
		if p, err := strconv.Unquote(imp.Path.Value); err == nil {
			g.imports = append(g.imports, p)
		}
	}
	return g
}

// problems are all violations of all rules, each as "file: what is wrong: why it matters or what to do".
func (h *house) problems() (all []string) {
	for _, f := range h.files {
		for _, imp := range f.imports {
			all = append(all, importProblems(f, imp)...)
		}
	}
	all = append(all, h.folderProblems()...)
	all = append(all, h.commentProblems()...)
	for _, f := range h.texts {
		all = append(all, textProblems(f)...)
		if f.name != "layers_self_test.go" { // its examples name files that are not there
			all = append(all, h.linkProblems(f)...)
		}
	}
	return all
}

// layerOf is the layer of a room; -1 when it has none.
func layerOf(room string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, room) })
}

func importProblems(f goFile, imp string) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, f.name+": "+fmt.Sprintf(format, args...))
	}
	from := room(f.dir)
	support := isTestSupport(f.dir)
	if imp == module {
		bad("imports the root package, which holds no code")
		return problems
	}
	if to, inside := strings.CutPrefix(imp, module+"/"); inside {
		if isTestSupport(to) && !f.test && !support {
			bad("imports %s: test support is for _test.go files", to)
		}
		target := room(to)
		if target == from {
			return problems
		}
		if rule, ok := onlyFrom[target]; ok && !slices.Contains(rule.rooms, from) {
			bad("imports %s, which only %v may: %s", to, rule.rooms, rule.why)
			return problems
		}
		sameTop := from == "bench" && target == "e2e"
		if a, b := layerOf(from), layerOf(target); a <= b && a >= 0 && b >= 0 && !sameTop {
			bad("%s imports %s: imports point downward only (%s)", from, to, picture())
		}
		return problems
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return problems // standard library
	}
	best := -1
	for i, r := range fence {
		if (imp == r.path || strings.HasPrefix(imp, r.path+"/")) && (best < 0 || len(r.path) > len(fence[best].path)) {
			best = i
		}
	}
	if best < 0 {
		bad("imports %s, which no line of the fence in layers_test.go allows: a dependency enters with a reason", imp)
		return problems
	}
	r := fence[best]
	if slices.Contains(r.rooms, from) {
		return problems
	}
	inTests := slices.Contains(r.tests, from) || slices.Contains(r.tests, "*")
	switch {
	case inTests && (f.test || support):
	case inTests:
		bad("imports %s outside a test: %s", imp, r.why)
	default:
		bad("imports %s, which only %v may (in tests: %v): %s", imp, r.rooms, r.tests, r.why)
	}
	return problems
}

// picture is the order of the layers for messages, top first.
func picture() string {
	var rows []string
	for _, l := range slices.Backward(layers) {
		rows = append(rows, strings.Join(l, " "))
	}
	return strings.Join(rows, " → ")
}

var folderName = regexp.MustCompile(`^[a-z][a-z0-9]*$`)

func (h *house) folderProblems() (problems []string) {
	seen := map[string]bool{}
	for _, f := range h.files {
		base := path.Base(f.dir)
		if want := strings.TrimSuffix(f.pkg, "_test"); f.dir != "." && f.pkg != "main" && want != base && f.pkg != base {
			problems = append(problems, fmt.Sprintf("%s: package %s in folder %s: they carry one name", f.name, f.pkg, base))
		}
		if seen[f.dir] || f.dir == "." {
			continue
		}
		seen[f.dir] = true
		if top := room(f.dir); layerOf(top) < 0 && !slices.Contains(otherFolders, top) {
			problems = append(problems, fmt.Sprintf("%s: unknown top-level folder: give it its place in layers_test.go and in ARCHITECTURE.md", top))
		}
		for part := range strings.SplitSeq(f.dir, "/") {
			if slices.Contains(badNames, part) {
				problems = append(problems, fmt.Sprintf("%s: a folder called %q says nothing: name it for what it does", f.dir, part))
			} else if !folderName.MatchString(part) {
				problems = append(problems, fmt.Sprintf("%s: folder names are one lower-case word", f.dir))
			}
		}
		if base := path.Base(f.dir); isTestSupport(f.dir) {
			if of := strings.TrimSuffix(base, "test"); path.Base(path.Dir(f.dir)) != of {
				problems = append(problems, fmt.Sprintf("%s: test support of package x is x/xtest", f.dir))
			}
		}
	}
	return problems
}

// commentProblems checks the package comment of every package that has more than tests.
func (h *house) commentProblems() (problems []string) {
	docs, names := map[string][]goFile{}, map[string]string{}
	var dirs []string
	for _, f := range h.files {
		if f.test {
			continue
		}
		if _, ok := names[f.dir]; !ok {
			dirs = append(dirs, f.dir)
		}
		names[f.dir] = f.pkg
		if f.doc != "" {
			docs[f.dir] = append(docs[f.dir], f)
		}
	}
	for _, dir := range dirs {
		switch n := len(docs[dir]); n {
		case 0:
			problems = append(problems, dir+": no package comment: begin one with \"Package "+names[dir]+" \" in doc.go")
		case 1:
			if err := checkComment(names[dir], path.Base(dir), docs[dir][0].doc); err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", docs[dir][0].name, err))
			}
		default:
			problems = append(problems, fmt.Sprintf("%s: %d files carry a package comment, %s and %s: keep one", dir, n, docs[dir][0].name, docs[dir][1].name))
		}
	}
	return problems
}

// checkComment wants "Package x does …" and the headings in order, each with something under it; of a main package
// it wants "Command x …".
func checkComment(pkg, folder, doc string) error {
	if pkg == "main" {
		if !strings.HasPrefix(doc, "Command "+folder+" ") {
			return fmt.Errorf("the comment of a main package begins with %q", "Command "+folder+" ")
		}
		return nil
	}
	if !strings.HasPrefix(doc, "Package "+pkg+" ") {
		return fmt.Errorf("the package comment begins with %q", "Package "+pkg+" ")
	}
	lines := strings.Split(doc, "\n")
	at := 0
	for _, want := range headings {
		i := slices.Index(lines, "# "+want)
		if i < 0 {
			return fmt.Errorf("the package comment has no heading \"# %s\" (it has four: %s)", want, strings.Join(headings, ", "))
		}
		if i < at {
			return fmt.Errorf("heading \"# %s\" of the package comment is out of order (%s)", want, strings.Join(headings, ", "))
		}
		at = i
		rest := slices.DeleteFunc(slices.Clone(lines[i+1:]), func(s string) bool { return strings.TrimSpace(s) == "" })
		if len(rest) == 0 || strings.HasPrefix(rest[0], "# ") {
			return fmt.Errorf("nothing stands under \"# %s\" of the package comment", want)
		}
	}
	return nil
}

func textProblems(f textFile) (problems []string) {
	for i, line := range strings.Split(f.text, "\n") {
		for _, bad := range badTexts {
			if m := bad.re.FindString(line); m != "" {
				problems = append(problems, fmt.Sprintf("%s:%d: %q: %s", f.name, i+1, m, bad.why))
			}
		}
	}
	return problems
}

var (
	docMention = regexp.MustCompile(`\bdocs/[\w./-]*\w\.md\b`)
	mdLink     = regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
)

// linkProblems: a document that a comment names, and a file that a document links, exist.
func (h *house) linkProblems(f textFile) (problems []string) {
	missing := func(p string) bool {
		_, err := os.Stat(filepath.Join(h.root, filepath.FromSlash(p)))
		return errors.Is(err, fs.ErrNotExist)
	}
	for _, m := range docMention.FindAllString(f.text, -1) {
		if missing(m) {
			problems = append(problems, fmt.Sprintf("%s: names %s, which does not exist", f.name, m))
		}
	}
	if path.Ext(f.name) == ".md" {
		for _, m := range mdLink.FindAllStringSubmatch(f.text, -1) {
			if to := path.Join(path.Dir(f.name), m[1]); missing(to) {
				problems = append(problems, fmt.Sprintf("%s: links %s, which does not exist", f.name, to))
			}
		}
	}
	return problems
}
