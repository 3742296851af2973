package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxDepth bounds the nesting of a filter, so that no request can exhaust the
// stack.
const maxDepth = 200

// parseExpression reads a filter expression:
//
//	or      = and { OR and }
//	and     = not { AND not }
//	not     = NOT not | "(" or ")" | test
//
// and a test one of
//
//	name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//	name value TO value | name [ NOT ] IN "[" value , … "]"
//	name [ NOT ] EXISTS | name IS [ NOT ] ( NULL | EMPTY )
func parseExpression(text string) (condition, error) {
	words, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{words: words}
	c, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.at < len(p.words) {
		return nil, fmt.Errorf("found unexpected characters at the end of the filter: `%s`", p.words[p.at].text)
	}
	return c, nil
}

// word is a token; a quoted one is never a keyword or a sign.
type word struct {
	text   string
	quoted bool
}

func lex(text string) ([]word, error) {
	var words []word
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case strings.ContainsRune(" \t\n\r", rune(c)):
			i++
		case c == '"' || c == '\'':
			var b strings.Builder
			j := i + 1
			for ; j < len(text) && text[j] != c; j++ {
				if text[j] == '\\' && j+1 < len(text) {
					j++
				}
				b.WriteByte(text[j])
			}
			if j == len(text) {
				return nil, errors.New("expression has a missing closing quote")
			}
			words = append(words, word{b.String(), true})
			i = j + 1
		case strings.ContainsRune("()[],", rune(c)):
			words = append(words, word{string(c), false})
			i++
		case strings.ContainsRune("=!<>", rune(c)):
			j := i + 1
			if j < len(text) && text[j] == '=' {
				j++
			}
			words = append(words, word{text[i:j], false})
			i = j
		default:
			j := i
			for j < len(text) && !strings.ContainsRune(" \t\n\r\"'()[],=!<>", rune(text[j])) {
				j++
			}
			words = append(words, word{text[i:j], false})
			i = j
		}
	}
	return words, nil
}

type parser struct {
	words []word
	at    int
}

// take reads the next word when it is the given keyword or sign.
func (p *parser) take(keyword string) bool {
	if p.at < len(p.words) && !p.words[p.at].quoted && strings.EqualFold(p.words[p.at].text, keyword) {
		p.at++
		return true
	}
	return false
}

func (p *parser) value() (string, error) {
	if p.at >= len(p.words) {
		return "", errors.New("the filter ends where a name or value is expected")
	}
	w := p.words[p.at]
	if !w.quoted && strings.ContainsAny(w.text, "()[],=!<>") {
		return "", fmt.Errorf("`%s` stands where a name or value is expected", w.text)
	}
	p.at++
	return w.text, nil
}

func (p *parser) or(depth int) (condition, error) {
	if depth > maxDepth {
		return nil, errors.New("the filter exceeds the maximum depth limit")
	}
	left, err := p.and(depth)
	for err == nil && p.take("OR") {
		var right condition
		l := left
		if right, err = p.and(depth); err == nil {
			left = func(d document) bool { return l(d) || right(d) }
		}
	}
	return left, err
}

func (p *parser) and(depth int) (condition, error) {
	left, err := p.not(depth)
	for err == nil && p.take("AND") {
		var right condition
		l := left
		if right, err = p.not(depth); err == nil {
			left = func(d document) bool { return l(d) && right(d) }
		}
	}
	return left, err
}

func (p *parser) not(depth int) (condition, error) {
	if depth > maxDepth {
		return nil, errors.New("the filter exceeds the maximum depth limit")
	}
	if p.take("NOT") {
		c, err := p.not(depth + 1)
		return func(d document) bool { return !c(d) }, err
	}
	if p.take("(") {
		c, err := p.or(depth + 1)
		if err == nil && !p.take(")") {
			err = errors.New("expression is missing a closing parenthesis")
		}
		return c, err
	}
	return p.comparison()
}

func (p *parser) comparison() (condition, error) {
	name, err := p.value()
	if err != nil {
		return nil, err
	}
	for _, sign := range []string{"=", "!=", "<=", ">=", "<", ">"} {
		if p.take(sign) {
			v, err := p.value()
			return func(d document) bool { return holds(attribute(d, name), sign, v) }, err
		}
	}
	if p.take("IS") {
		negated := p.take("NOT")
		switch {
		case p.take("NULL"):
			return func(d document) bool { _, ok := d[name]; return (ok && d[name] == nil) != negated }, nil
		case p.take("EMPTY"):
			return func(d document) bool { return empty(d, name) != negated }, nil
		}
		return nil, errors.New("expected NULL or EMPTY after IS")
	}
	negated := p.take("NOT")
	if p.take("EXISTS") {
		return func(d document) bool { _, ok := d[name]; return ok != negated }, nil
	}
	if p.take("IN") {
		values, err := p.valueList()
		return func(d document) bool {
			in := slices.ContainsFunc(values, func(v string) bool { return holds(attribute(d, name), "=", v) })
			return in != negated
		}, err
	}
	if negated {
		return nil, errors.New("expected IN or EXISTS after NOT")
	}
	from, err := p.value()
	if err != nil {
		return nil, fmt.Errorf("was expecting an operation after `%s`: %w", name, err)
	}
	if !p.take("TO") {
		return nil, fmt.Errorf("was expecting an operation after `%s`", name)
	}
	to, err := p.value()
	return func(d document) bool {
		v := attribute(d, name)
		return holds(v, ">=", from) && holds(v, "<=", to)
	}, err
}

func empty(d document, name string) bool {
	v, ok := d[name]
	if !ok {
		return false
	}
	switch v := v.(type) {
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func (p *parser) valueList() ([]string, error) {
	if !p.take("[") {
		return nil, errors.New("expected [ after IN")
	}
	var values []string
	for !p.take("]") {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		values = append(values, v)
		if !p.take(",") && !(p.at < len(p.words) && p.words[p.at] == word{"]", false}) {
			return nil, errors.New("expected , or ] in a list of values")
		}
	}
	return values, nil
}

// holds compares an attribute, or any member of it when it is a list, with a
// value of the filter. An attribute that is not there only passes !=.
func holds(attribute any, sign, value string) bool {
	if sign == "!=" {
		return !holds(attribute, "=", value)
	}
	return slices.ContainsFunc(list(attribute), func(a any) bool {
		_, okA := number(a)
		_, okV := number(value)
		c := compare(a, value)
		switch sign {
		case "=":
			return c == 0
		case "<":
			return okA && okV && c < 0
		case "<=":
			return okA && okV && c <= 0
		case ">":
			return okA && okV && c > 0
		}
		return okA && okV && c >= 0
	})
}
