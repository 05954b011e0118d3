// The ranks that a budget allows, by the rule of plop_lora.placement.budget.allocate: the same rank
// for every weight, then whole types by one rank in their order, then single weights in their order,
// until no rank fits. A weight is {price, most, group}: the parameters of one rank, the largest rank,
// and the position of its type. All numbers are whole and far below 2^53.
var plopAllocate = (() => {
  'use strict';
  const total = (weights, ranks) =>
    weights.reduce((sum, weight, index) => sum + weight.price * ranks[index], 0);

  function largestUniformRank(weights, budget) {
    let low = 1;
    let high = Math.max(...weights.map((weight) => weight.most));
    while (low < high) {
      const middle = Math.floor((low + high + 1) / 2);
      const ranks = weights.map((weight) => Math.min(middle, weight.most));
      if (total(weights, ranks) <= budget) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function raise(weights, ranks, members, left) {
    const price = members.reduce((sum, index) => sum + weights[index].price, 0);
    const grows = members.every((index) => ranks[index] < weights[index].most);
    if (!grows || price > left) return left;
    for (const index of members) ranks[index] += 1;
    return left - price;
  }

  // Returns the rank of every weight, or null where the budget does not allow rank 1 everywhere.
  return function allocate(weights, budget) {
    if (budget < total(weights, weights.map(() => 1))) return null;
    const uniform = largestUniformRank(weights, budget);
    const ranks = weights.map((weight) => Math.min(uniform, weight.most));
    let left = budget - total(weights, ranks);
    const order = weights.map((_, index) => index);
    const groups = [...new Set(weights.map((weight) => weight.group))].sort((a, b) => a - b);
    for (const group of groups) {
      const members = order.filter((index) => weights[index].group === group);
      left = raise(weights, ranks, members, left);
    }
    order.sort((a, b) => weights[a].group - weights[b].group || a - b);
    for (let before = -1; before !== left; ) {
      before = left;
      for (const index of order) left = raise(weights, ranks, [index], left);
    }
    return ranks;
  };
})();
