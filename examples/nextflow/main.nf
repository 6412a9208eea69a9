// One benchmark a line of a sample sheet (sample,data,links). Dry: nextflow run main.nf -stub --input samples.csv
include { MOCLI_BENCHMARK } from './modules/mocli/benchmark/main'

params.input = 'samples.csv'

workflow {
    rows = Channel
        .fromPath(params.input, checkIfExists: true)
        .splitCsv(header: true)
        .map { row -> tuple([id: row.sample], file(row.data, checkIfExists: true), row.links ? file(row.links, checkIfExists: true) : []) }
    MOCLI_BENCHMARK(rows)
}
