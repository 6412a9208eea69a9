// A benchmark whose runs are tasks of their own, on whatever executor nextflow is set to:
//   nextflow run plan.nf --words "demo/multiome.h5mu --label-key cell_type --seeds 0,1" --output bench.tsv
// Dry: add -stub.
include { MOCLI_PLAN ; MOCLI_RUN as RUN_FIRST ; MOCLI_RUN as RUN_AFTER ; MOCLI_COLLECT } from './modules/mocli/plan/main'

params.words = ''
params.output = 'bench.tsv'

workflow {
    asked = tuple(params.words, params.output)
    MOCLI_PLAN(asked)
    lines = MOCLI_PLAN.out.plan
        .splitCsv(header: true, sep: '\t')
        .branch { line ->
            alone: !line.needs
            after: true
        }
    RUN_FIRST(lines.alone)
    // a line that takes another's model waits for that one alone
    waiting = lines.after.map { line -> tuple(line.needs, line) }
    RUN_AFTER(RUN_FIRST.out.id.map { id -> tuple(id, true) }.cross(waiting).map { done, line -> line[1] })
    MOCLI_COLLECT(asked, RUN_FIRST.out.id.mix(RUN_AFTER.out.id).collect())
}
