//! Directed graphs with kinds of edges, and the cycles in them.
//!
//! Invariants: nodes are numbers; the answer is the same for the same edges in the same order; no
//! recursion, so a long history cannot exhaust the stack.

use std::collections::VecDeque;

/// Why one transaction must come before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// The second wrote right after the first.
    WriteWrite,
    /// The second read what the first wrote.
    WriteRead,
    /// The second overwrote what the first read.
    ReadWrite,
    /// The first was over before the second was sent.
    RealTime,
}

/// A graph over nodes `0..`.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: Vec<Vec<(usize, Edge)>>,
}

impl Graph {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            edges: vec![Vec::new(); nodes],
        }
    }

    pub(super) fn add_node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    pub(super) fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges[from].push((to, edge));
        }
    }

    /// A short cycle whose edges are all of `kinds`: its nodes and the edge that leaves each.
    pub(super) fn cycle(&self, kinds: &[Edge]) -> Option<Vec<(usize, Edge)>> {
        let component = self.components(kinds);
        let start = self.inner_edge(&component, kinds)?;
        // Any node of a component that has an inner edge lies on a cycle.
        self.path(start, start, kinds)
    }

    /// A short cycle with exactly one edge of the kind `once`, all others being of `kinds`.
    pub(super) fn cycle_with_one(
        &self,
        once: Edge,
        kinds: &[Edge],
        most_tries: usize,
    ) -> Option<Vec<(usize, Edge)>> {
        let all: Vec<Edge> = kinds.iter().copied().chain([once]).collect();
        let component = self.components(&all);
        let inner = |from: usize, to: usize| component[from] == component[to];
        let edges = self
            .edges
            .iter()
            .enumerate()
            .flat_map(|(from, edges)| edges.iter().map(move |&(to, edge)| (from, to, edge)));
        edges
            .filter(|&(from, to, edge)| edge == once && inner(from, to))
            .take(most_tries)
            .find_map(|(from, to, _)| {
                let mut cycle = vec![(from, once)];
                cycle.extend(self.path(to, from, kinds)?);
                Some(cycle)
            })
    }

    /// A node with an edge inside its component.
    fn inner_edge(&self, component: &[usize], kinds: &[Edge]) -> Option<usize> {
        (0..self.edges.len()).find(|&from| {
            let mut edges = self.edges[from].iter();
            edges.any(|(to, edge)| kinds.contains(edge) && component[from] == component[*to])
        })
    }

    /// A shortest path of at least one edge.
    fn path(&self, from: usize, to: usize, kinds: &[Edge]) -> Option<Vec<(usize, Edge)>> {
        let mut came: Vec<Option<(usize, Edge)>> = vec![None; self.edges.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &(next, edge) in &self.edges[node] {
                if !kinds.contains(&edge) || came[next].is_some() {
                    continue;
                }
                came[next] = Some((node, edge));
                if next != to {
                    queue.push_back(next);
                    continue;
                }
                let mut path = Vec::new();
                let mut at = to;
                while let Some((before, edge)) = came[at] {
                    path.push((before, edge));
                    at = before;
                    if at == from {
                        break;
                    }
                }
                path.reverse();
                return Some(path);
            }
        }
        None
    }

    /// The number of each node's strongly connected component (Tarjan, without recursion).
    fn components(&self, kinds: &[Edge]) -> Vec<usize> {
        let nodes = self.edges.len();
        let mut walk = Tarjan {
            order: vec![usize::MAX; nodes],
            low: vec![0; nodes],
            component: vec![usize::MAX; nodes],
            stack: Vec::new(),
            visited: 0,
            components: 0,
        };
        for root in 0..nodes {
            if walk.order[root] == usize::MAX {
                walk.visit(&self.edges, kinds, root);
            }
        }
        walk.component
    }
}

struct Tarjan {
    order: Vec<usize>,
    low: Vec<usize>,
    component: Vec<usize>,
    stack: Vec<usize>,
    visited: usize,
    components: usize,
}

impl Tarjan {
    fn enter(&mut self, node: usize) {
        self.order[node] = self.visited;
        self.low[node] = self.visited;
        self.visited += 1;
        self.stack.push(node);
    }

    fn visit(&mut self, edges: &[Vec<(usize, Edge)>], kinds: &[Edge], root: usize) {
        self.enter(root);
        let mut path = vec![(root, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            if let Some(&(to, edge)) = edges[node].get(*next) {
                *next += 1;
                if !kinds.contains(&edge) {
                    continue;
                }
                if self.order[to] == usize::MAX {
                    self.enter(to);
                    path.push((to, 0));
                } else if self.component[to] == usize::MAX {
                    self.low[node] = self.low[node].min(self.order[to]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                self.low[parent] = self.low[parent].min(self.low[node]);
            }
            if self.low[node] == self.order[node] {
                self.close(node);
            }
        }
    }

    /// Everything above `node` on the stack is one component.
    fn close(&mut self, node: usize) {
        while let Some(member) = self.stack.pop() {
            self.component[member] = self.components;
            if member == node {
                break;
            }
        }
        self.components += 1;
    }
}
