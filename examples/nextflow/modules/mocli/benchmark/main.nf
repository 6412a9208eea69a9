process MOCLI_BENCHMARK {
    tag "$meta.id"
    label 'process_high'

    conda "${moduleDir}/environment.yml"

    input:
    tuple val(meta), path(data), path(links)

    output:
    tuple val(meta), path("${prefix}.tsv")        , emit: table
    tuple val(meta), path("${prefix}_mqc.json")   , emit: report
    tuple val(meta), path("${prefix}.report.html"), emit: html
    tuple val(meta), path("${prefix}.runs")       , emit: runs
    path "versions.yml"                           , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def table = links ? "--links ${links}" : ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mocli benchmark \\
        ${data} \\
        ${table} \\
        --threads ${task.cpus} \\
        --report ${prefix}_mqc.json \\
        -o ${prefix}.tsv \\
        ${args}

    mocli doctor --versions-yml "${task.process}" > versions.yml
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p ${prefix}.runs
    touch ${prefix}.tsv ${prefix}_mqc.json ${prefix}.report.html

    mocli doctor --versions-yml "${task.process}" > versions.yml
    """
}
