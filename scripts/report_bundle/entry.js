// The one function that the page needs of Vega. Expressions are interpreted from their syntax trees
// and never compiled, so that a content security policy without 'unsafe-eval' lets them run.
import {View, parse} from 'vega';
import {expressionInterpreter} from 'vega-interpreter';
import {compile} from 'vega-lite';

export function draw(container, spec, renderer, tooltip) {
  const parsed = parse(compile(spec).spec, null, {ast: true});
  const view = new View(parsed, {
    renderer, container, tooltip, expr: expressionInterpreter, hover: true,
  });
  return view.runAsync();
}
